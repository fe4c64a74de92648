"""Folders of images: every layout is understood or refused in one line."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.lab.conftest import Cli, make_images
from trainact.lab.data.folder_listing import (
    TEST_NAMES,
    TRAIN_NAMES,
    Listing,
    list_folder,
)
from trainact.lab.errors import LabError


def touch(root: Path, folders: Iterable[str], count: int = 5) -> Path:
    """Make folders of empty files, which a listing does not open."""
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for number in range(count):
            (root / folder / f"{number}.png").touch()
    return root


def refusal(root: Path) -> str:
    with pytest.raises(LabError) as error:
        list_folder(root)
    assert "\n" not in str(error.value)
    return str(error.value)


def parts(listing: Listing, root: Path) -> list[set[str]]:
    """The folders at the top that images are trained and tested on."""
    files = (listing.train_files, listing.test_files)
    return [{file.relative_to(root).parts[0] for file in part} for part in files]


@pytest.mark.parametrize("case", [str.lower, str.upper, str.title])
@pytest.mark.parametrize(
    ("train", "test"),
    [(train, test) for train in TRAIN_NAMES for test in TEST_NAMES],
)
def test_parts_by_any_of_their_names(
    tmp_path: Path, train: str, test: str, case: Callable[[str], str]
) -> None:
    train, test = case(train), case(test)
    touch(tmp_path, (f"{part}/{name}" for part in (train, test) for name in "ab"))
    listing = list_folder(tmp_path)
    assert listing.classes == ("a", "b")
    assert parts(listing, tmp_path) == [{train}, {test}]


def test_of_several_parts_to_test_on_the_first_counts(tmp_path: Path) -> None:
    touch(
        tmp_path, (f"{part}/{name}" for part in ("train", *TEST_NAMES) for name in "ab")
    )
    assert parts(list_folder(tmp_path), tmp_path) == [{"train"}, {"test"}]


@pytest.mark.parametrize(
    "folders",
    [
        ("train2017/a", "train2017/b", "val2017/a", "val2017/b"),
        ("train_images/a", "train_images/b", "holdout/a", "holdout/b"),
        ("train/a", "train/b", "holdout/a", "holdout/b"),
        ("Training Set/a", "Training Set/b", "Other/a", "Other/b"),
        ("fold-1/test/a", "fold-2/test/a"),
        ("images/train/a", "images/val/a", "masks/train/a", "masks/val/a"),
        ("test/a", "test/b", "unlabelled"),
    ],
)
def test_parts_by_other_names_are_no_classes(
    tmp_path: Path, folders: tuple[str, ...]
) -> None:
    assert "a part of a data set and no class" in refusal(touch(tmp_path, folders))


@pytest.mark.parametrize(
    "folders",
    [
        ("bus", "car", "train"),
        ("eval", "valid"),
        ("cat/indoors", "cat/outdoors", "dog/indoors", "dog/outdoors"),
        ("contest/a", "detest/a"),
    ],
)
def test_classes_that_are_no_parts(tmp_path: Path, folders: tuple[str, ...]) -> None:
    listing = list_folder(touch(tmp_path, folders))
    assert listing.classes == tuple(sorted({name.split("/")[0] for name in folders}))


def test_names_that_differ_in_case_only(tmp_path: Path) -> None:
    touch(tmp_path, ("train/a", "train/b", "Val/a", "Val/b", "val/a", "val/b"))
    assert "differ in case only" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("train/cat/up", ".."),
        ("train/cat/up", "../.."),
        ("train/cat/self", "."),
        ("train/self", "."),
        ("train/cat/deep/up", ".."),
        ("train/cat/root", "/"),
    ],
)
def test_links_to_a_folder_above_are_refused(
    tmp_path: Path, link: str, target: str
) -> None:
    touch(tmp_path, ("train/cat/deep", "train/dog", "val/cat", "val/dog"))
    (tmp_path / link).symlink_to(target)
    assert f"{tmp_path / link} is a link to a folder that it lies" in refusal(tmp_path)


def test_links_in_a_ring_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, ("a", "b"))
    (tmp_path / "a" / "on").symlink_to("../b")
    (tmp_path / "b" / "on").symlink_to("../a")
    assert "is a link to a folder that it lies in" in refusal(tmp_path)


def test_links_elsewhere_are_followed(tmp_path: Path) -> None:
    store = touch(tmp_path / "store", ("more", "many"))
    root = touch(tmp_path / "root", ("a", "b"))
    (root / "a" / "more").symlink_to(store / "more")
    (root / "b" / "0.png").unlink()
    (root / "b" / "0.png").symlink_to(store / "many" / "0.png")
    (root / "c").symlink_to(store / "many")
    listing = list_folder(root)
    files = [*listing.train_files, *listing.test_files]
    assert len(set(files)) == len(files) == 20
    assert listing.classes == ("a", "b", "c")


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        lambda path: path.symlink_to("nowhere"),
        lambda path: path.symlink_to(path.name),
        lambda path: path.symlink_to(os.devnull),
    ],
    ids=["pipe", "broken", "loop", "device"],
)
def test_what_is_no_file_is_refused(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    odd = touch(tmp_path, ("a", "b")) / "b" / "odd.jpg"
    make(odd)
    assert str(odd) in refusal(tmp_path)


@pytest.mark.parametrize("closed", ["train", "train/cat", "train/cat/more", "val"])
def test_a_folder_that_cannot_be_read_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    touch(tmp_path, ("train/cat/more", "train/dog", "val/cat", "val/dog"))
    scandir = os.scandir

    def refuse(path: str | Path) -> object:  # root may read everything
        if Path(path) == tmp_path / closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    message = f"cannot use {tmp_path / closed} (Permission denied)"
    assert refusal(tmp_path).startswith(message)


def test_a_class_whose_name_is_not_utf8(tmp_path: Path) -> None:
    touch(tmp_path, ("a", os.fsdecode(b"caf\xe9")))
    assert r"the name 'caf\udce9' in" in refusal(tmp_path)


@pytest.mark.parametrize("layout", ["{}", "train/{}"])
def test_what_is_written_beside_the_images_is_no_class(
    tmp_path: Path, compare: Cli, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    for name in ("a", "b"):
        make_images(tmp_path / layout.format(name), 5)
    monkeypatch.chdir(tmp_path)
    tiny = ("--data", "imagefolder:.", "--model", "mlp", "--epochs", "1")
    options = (*tiny, "--methods", "vanilla", "--seeds", "0", "--device", "cpu")
    for _ in range(2):  # also when there are curves
        outcome = compare(*options, out=Path("runs", "deep"))
        assert outcome.code == 0, outcome.err
    assert "1 of 1 runs found" in outcome.out
    assert (tmp_path / "runs" / "deep" / "curves.png").exists()
    assert list_folder(Path()).classes == ("a", "b")
