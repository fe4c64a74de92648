"""Published sets as they lie on a disk, and the made-up one; every picture made up."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import Flowers102
from torchvision.transforms import PILToTensor

from tests.lab.photographic import draw, load
from trainact.lab.data import torchvision_sets
from trainact.lab.data.images import ImageData
from trainact.lab.data.photographs import FileSource, Photographs
from trainact.lab.errors import LabError


def add_picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(seed).save(path)


def pixels(data: Photographs, split: str, index: int) -> bytes:
    return getattr(data, split).read(index).tobytes()


def read(path: Path) -> bytes:
    return Image.open(path).tobytes()


@pytest.fixture
def flowers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six flowers, which torchvision takes for the published ones."""
    root = tmp_path / "flowers-102"
    for number in range(1, 7):
        add_picture(root / "jpg" / f"image_{number:05}.jpg", number)
    savemat(root / "imagelabels.mat", {"labels": [[102, 1, 3, 1, 5, 2]]})
    splits = {"trnid": [[6, 1]], "valid": [[2, 3]], "tstid": [[4, 5]]}
    savemat(root / "setid.mat", splits)
    files = dict(Flowers102._file_dict)
    for key, name in (("label", "imagelabels.mat"), ("setid", "setid.mat")):
        digest = hashlib.md5((root / name).read_bytes()).hexdigest()
        files[key] = (name, digest)
    monkeypatch.setattr(Flowers102, "_file_dict", files)
    return tmp_path


def test_flowers(flowers: Path) -> None:
    data = load("flowers102", data_dir=flowers)
    assert data.train.labels.tolist() == [1, 101, 0, 2], "train, then val"
    assert data.test.labels.tolist() == [0, 4]
    assert data.num_classes == 102
    assert data.classes[101] == "blackberry lily"
    for split, index, number in (("train", 0, 6), ("train", 2, 2), ("test", 1, 5)):
        expected = read(flowers / "flowers-102" / "jpg" / f"image_{number:05}.jpg")
        assert pixels(data, split, index) == expected
    (flowers / "flowers-102" / "jpg" / "image_00003.jpg").unlink()
    with pytest.raises(LabError, match=r"cannot read .*image_00003\.jpg"):
        data.train_samples()[3, 0]


def offline(_: object) -> None:
    raise OSError("no route\nto host")


def test_altered_flowers(flowers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Flowers102, "download", offline)
    root = flowers / "flowers-102"
    (root / "setid.mat").write_bytes((root / "setid.mat").read_bytes()[:-1])
    with pytest.raises(LabError, match=f"{root} has other files than flowers102's"):
        load("flowers102", data_dir=flowers)


def test_flowers_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Flowers102, "download", offline)
    with pytest.raises(LabError) as error:
        load("flowers102", data_dir=tmp_path)
    assert str(error.value) == (
        "cannot download flowers102 (no route): without a network, put its files at "
        f"{tmp_path}/flowers-102 (with jpg/, imagelabels.mat and setid.mat)"
    )


def cars_of(files: list[str], labels: list[int]) -> dict[str, Any]:
    kinds = [("fname", object), ("class", np.uint8)]
    return {
        "annotations": np.array([list(zip(files, labels, strict=True))], dtype=kinds)
    }


def write_cars(tmp_path: Path, train: list[int], test: list[int]) -> Path:
    root = tmp_path / "stanford_cars"
    (root / "devkit").mkdir(parents=True)
    names = [f"car {number}" for number in range(196)]
    meta = {"class_names": np.array([names], dtype=object)}
    savemat(root / "devkit" / "cars_meta.mat", meta)
    for split, labels, where in (
        ("train", train, root / "devkit" / "cars_train_annos.mat"),
        ("test", test, root / "cars_test_annos_withlabels.mat"),
    ):
        files = [f"{number:05}.jpg" for number in range(1, len(labels) + 1)]
        savemat(where, cars_of(files, labels))
        for number, file in enumerate(files):
            add_picture(root / f"cars_{split}" / file, 10 * len(labels) + number)
    return root


def test_cars(tmp_path: Path) -> None:
    root = write_cars(tmp_path, [196, 1, 7], [2, 196])
    data = load("stanford-cars", data_dir=tmp_path)
    assert data.train.labels.tolist() == [195, 0, 6]
    assert data.test.labels.tolist() == [1, 195]
    assert data.classes == tuple(f"car {number}" for number in range(196))
    assert pixels(data, "train", 2) == read(root / "cars_train" / "00003.jpg")
    assert pixels(data, "test", 1) == read(root / "cars_test" / "00002.jpg")
    assert isinstance(data.train, FileSource)
    assert data.train.name(1) == str(root / "cars_train" / "00002.jpg")


@pytest.mark.parametrize(
    ("train", "test", "says"),
    [
        ([197, 1], [2, 1], "the labels of the training images go from 0 to 196"),
        ([196, 1], [0, 2], "the labels of the test images go from"),
    ],
)
def test_cars_of_a_kind_that_there_is_not(
    tmp_path: Path, train: list[int], test: list[int], says: str
) -> None:
    write_cars(tmp_path, train, test)
    with pytest.raises(LabError, match=says):
        load("stanford-cars", data_dir=tmp_path)


def test_damaged_cars(tmp_path: Path) -> None:
    root = write_cars(tmp_path, [1, 2], [1, 2])
    (root / "devkit" / "cars_meta.mat").write_bytes(b"MATLAB" * 40)
    with pytest.raises(LabError, match="cannot read stanford-cars"):
        load("stanford-cars", data_dir=tmp_path)


def test_cars_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(LabError) as error:
        load("stanford-cars", data_dir=tmp_path)
    message = str(error.value)
    assert message.startswith("cannot read stanford-cars (Dataset not found.): it can")
    assert "cars_test_annos_withlabels.mat" in message
    assert f"{tmp_path}/stanford_cars/" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    labels = torch.tensor([1, 0, 1, 0, 0, 1])
    small = ImageData(images[:4], labels[:4], images[4:], labels[4:], ("a", "b"))
    asked: list[tuple[str, Path]] = []

    def loaded(name: str, data_dir: Path) -> ImageData:
        asked.append((name, data_dir))
        return small

    monkeypatch.setattr(torchvision_sets, "load", loaded)
    data = load(name, data_dir=tmp_path, image_size=32, eval_crop=1.0)
    assert asked == [(name, tmp_path)]
    assert torch.equal(PILToTensor()(data.train.read(2)), images[2])
    assert torch.equal(data.test_samples()[1][0], images[5])
    assert data.test.labels.tolist() == [0, 1]
    assert data.train.name(2) == f"image 2 of {name}'s training images"
    hashes = {load(name, data_dir=tmp_path).fingerprint["hash"]}
    images[0, 0, 0, 0] ^= 1
    hashes.add(load(name, data_dir=tmp_path).fingerprint["hash"])
    assert len(hashes) == 2, "small sets are identified by their pixels"


def test_a_folder_of_downloads_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    within_a_file = tmp_path / "file" / "data"
    with pytest.raises(LabError, match="cannot download cifar10"):
        load("cifar10", data_dir=within_a_file)
    images, labels = torch.zeros((4, 3, 32, 32), dtype=torch.uint8), torch.arange(4)
    there = ImageData(images, labels, images, labels, ("a", "b", "c", "d"))
    monkeypatch.setattr(torchvision_sets, "load", lambda *_: there)
    assert load("cifar10", data_dir=within_a_file).num_train == 4


def test_made_up_photographs() -> None:
    data = load("smoke-photographs:1000")
    assert (data.num_train, data.num_test, data.num_classes) == (4, 4, 1000)
    sizes = {data.train.read(index).size for index in range(4)}
    assert len(sizes) > 1, "they differ in size"
    assert data.train.labels.max() < 1000
    assert data.train_samples()[3, 0][0].shape == (3, 16, 16)
    assert data.fingerprint == load("smoke-photographs:1000").fingerprint
    assert data.fingerprint != load("smoke-photographs:10").fingerprint
    assert data.train.name(1) == "image 1 of smoke-photographs:1000"


@pytest.mark.parametrize("count", ["", "1", "ten"])
def test_made_up_photographs_of_no_classes(count: str) -> None:
    with pytest.raises(LabError, match="give smoke-photographs: and a number"):
        load(f"smoke-photographs:{count}")
