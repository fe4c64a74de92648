"""The index of shards made elsewhere."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest

from tests.lab.foreign_shards import (
    Sample,
    check_pets,
    index_shards,
    sample,
    write_pets,
    write_shard,
)
from tests.lab.photographic import draw, encode, load
from trainact.lab.data.photographs.scan import scan
from trainact.lab.errors import LabError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pets(tmp_path / "elsewhere")


def test_shards_of_others(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LabError, match="write one with `trainact shards index"):
        load(f"webdataset:{folder}")
    assert index_shards(folder) == 0
    assert "5 training and 2 test images of 3 classes in 4 shards" in (
        capsys.readouterr().out
    )
    check_pets(f"webdataset:{folder}")
    check_pets(f"webdataset:{folder.as_uri()}")
    assert index_shards(folder) == 2, "an index is not overwritten"


def test_names_of_classes(folder: Path) -> None:
    (folder / "classes.txt").write_text("ape\nbee\ncat\ndog\n")
    assert index_shards(folder) == 0
    assert load(f"webdataset:{folder}").classes == ("ape", "bee", "cat", "dog")


def test_names_of_classes_in_another_encoding(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "classes.txt").write_bytes("ape\nbee\ncaf\u00e9\n".encode("latin-1"))
    assert index_shards(folder) == 2
    error = capsys.readouterr().err
    assert "it must be a text in UTF-8" in error
    assert error.count("\n") == 1


def test_an_index_in_another_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.chdir(folder.parent)
    assert index_shards(folder.name, "--out", "out") == 0
    monkeypatch.chdir("/")
    check_pets(f"webdataset:{out}")


@pytest.mark.parametrize(
    ("name", "samples", "message"),
    [
        ("train-1", [{"__key__": "a", "jpg": b"x"}], "'a' of train-1.tar has no label"),
        ("train-1", [{"__key__": "a", "cls": "1"}], "'a' of train-1.tar has no image"),
        ("train-1", [sample(0, "one")], "has the label 'one': give a number from 0"),
        ("train-1", [sample(0, -1)], "has the label '-1': give a number from 0"),
        ("train-1", [sample(0, 10**30)], "give a number from 0, of at most 7 digits"),
        ("train-1", [sample(0, 400_000_000)], "give a number from 0, of at most 7"),
        ("train-1", [sample(0, 1, png=b"x")], "has more than one image"),
        ("pets-1", [sample(0, 1)], "a shard's name must say train, or one of test"),
        ("constrain", [sample(0, 1)], "a shard's name must say train, or one of test"),
        (
            "constrained",
            [sample(0, 1)],
            "a shard's name must say train, or one of test",
        ),
    ],
)
def test_shards_that_are_none(
    folder: Path,
    name: str,
    samples: list[Sample],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_shard(folder / f"{name}.tar", samples)
    assert index_shards(folder) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (folder / "index.json").exists()


def test_a_label_that_is_no_class(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "classes.txt").write_text("ape\nbee\n")
    assert index_shards(folder) == 2
    assert "go from 0 to 2 and there are 2 classes" in capsys.readouterr().err


def test_compressed_and_damaged_tars(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = folder / "train-1.tar"
    write_shard(extra, [sample(8, 1)], compress=True)
    assert index_shards(folder) == 2
    assert "give tar files that are whole and not compressed" in capsys.readouterr().err
    write_shard(extra, [sample(8, 1)])
    extra.write_bytes(extra.read_bytes()[:1500])
    assert index_shards(folder) == 2
    assert str(extra) in capsys.readouterr().err


def test_shards_to_test_on_are_needed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "pets-validation-00.tar").unlink()
    assert index_shards(folder) == 2
    assert "has shards for training only" in capsys.readouterr().err
    for path in folder.glob("*.tar"):
        path.unlink()
    assert index_shards(folder) == 2
    assert "has no .tar files" in capsys.readouterr().err


def test_long_names_and_links(folder: Path) -> None:
    """A sample may have a name that the plain header has no room for."""
    with tarfile.open(folder / "train-9.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        long = "x" * 150
        (folder / "a").write_bytes(encode(draw(50)))
        (folder / "b").write_text("1\n")
        tar.add(folder / "a", f"{long}.jpeg")
        tar.add(folder / "b", f"{long}.cls")
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "elsewhere"
        tar.addfile(link)
    assert index_shards(folder) == 0
    data = load(f"webdataset:{folder}")
    assert data.num_train == 6
    assert data.train.labels[5] == 1
    assert data.train.read(5).size == draw(50).size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not an index of shards"),
        ("[1]", "is not an index of shards"),
        ('{"format": "other"}', "its format is 'other'"),
        ('{"classes": []}', "is not an index of shards"),
    ],
)
def test_an_index_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(LabError, match=message) as error:
        load(f"webdataset:{tmp_path}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("labels", [1], "lists of pets-train-0000.tar differ in length"),
        ("labels", [3, 0], "labels of the training images go from 0 to 3"),
        ("labels", [-1, 0], "labels of the training images go from -1 to 2"),
        ("labels", [0.5, 0], "hold other than whole numbers"),
        ("labels", [True, False], "hold other than whole numbers"),
        ("labels", ["1", "0"], "hold other than whole numbers"),
        ("labels", [10**30, 0], "hold other than whole numbers"),
        ("offsets", [2**63, 512], "hold other than whole numbers"),
        ("offsets", [2**63 - 1, 512], "does not lie in its"),
        ("offsets", [-512, 512], "does not lie in its"),
        ("sizes", [10**12, 9], "does not lie in its"),
        ("sizes", [-1, 9], "does not lie in its"),
        ("bytes", 1024, "does not lie in its 1024 bytes"),
        ("bytes", 10**30, "is not an index of shards"),
        ("bytes", None, "is not an index of shards"),
    ],
)
def test_an_index_that_was_altered(
    folder: Path, key: str, value: object, message: str
) -> None:
    assert index_shards(folder) == 0
    values = json.loads((folder / "index.json").read_text())
    values["train"][0][key] = value
    (folder / "index.json").write_text(json.dumps(values))
    with pytest.raises(LabError, match=message) as error:
        load(f"webdataset:{folder}")
    assert "\n" not in str(error.value)


def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "index.json")
    with pytest.raises(LabError, match=r"index\.json is a pipe"):
        load(f"webdataset:{folder}")
    os.mkfifo(folder / "train-1.tar")
    with pytest.raises(LabError, match=r"train-1\.tar is a pipe"):
        scan(folder / "train-1.tar", "train-1.tar")
