"""Photographs read one by one.

- Every source gives each image with its label, and an order of all of them.
- What is decoded is what torchvision decodes, and is RGB whatever the file is.
- A training sample is a function of the image and the seed, in any process.
- The fingerprint is of the images, wherever they are.
"""

from __future__ import annotations

import io
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import PILToTensor

from tests.lab.photographic import COUNTS, NAMES, draw, encode, load, write_photographs
from trainact.lab.data.images import stratified_subset
from trainact.lab.data.normalise import find_statistics
from trainact.lab.data.photographs import Photographs, UnreadableImageError
from trainact.lab.data.photographs.folder import Strings
from trainact.lab.data.photographs.source import SubsetSource, decode
from trainact.lab.errors import LabError

NUM_TRAIN = sum(COUNTS["train"])


@pytest.fixture
def data(root: Path) -> Photographs:
    return load(root)


def test_a_folder_is_read_as_torchvision_reads_it(
    root: Path, data: Photographs
) -> None:
    theirs = ImageFolder(str(root / "train"))
    assert data.classes == NAMES
    assert data.num_train == len(theirs) == NUM_TRAIN
    assert data.num_test == sum(COUNTS["val"])
    assert data.image_shape == (3, 16, 16)
    for index, (path, label) in enumerate(theirs.samples):
        assert data.train.name(index) == path
        assert data.train.labels[index] == label
        assert data.train.read(index).tobytes() == theirs[index][0].tobytes()


def test_a_folder_can_be_given_relative_to_the_current_one(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load(root)
    for folder, spec in ((root, "."), (root.parent, root.name)):
        monkeypatch.chdir(folder)
        data = load(Path(spec))
        assert data.train.read(3).tobytes() == whole.train.read(3).tobytes()
        assert data.fingerprint == whole.fingerprint


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=8))
def test_strings_come_back(strings: list[str]) -> None:
    kept = Strings(strings)
    assert [kept[index] for index in range(len(kept))] == strings


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "RGB"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    image = draw(1).convert(mode)
    decoded = decode(encode(image, kind), lambda: "it")
    assert decoded.mode == "RGB"
    if kind == "PNG":
        assert decoded.tobytes() == image.convert("RGB").tobytes()


def test_transparent_palettes_are_read_without_a_warning() -> None:
    image = draw(1).convert("P")
    image.info["transparency"] = bytes(range(256))
    decoded = decode(encode(image, "PNG"), lambda: "it")
    assert decoded.tobytes() == image.convert("RGBA").convert("RGB").tobytes()


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0II*\0\x08\0\0\0\x05\0", b"Exif\0\0MM\0*\0\0\0\x08\0\x03\x01\x1a"]
)
def test_odd_metadata_is_nobodys_concern(exif: bytes) -> None:
    """As some photographs of ImageNet have it; Pillow warns of it."""
    data = encode(draw(1), exif=exif)
    with pytest.warns(UserWarning, match="EXIF|Truncated"):
        Image.open(io.BytesIO(data)).load()
    assert decode(data, lambda: "it").size == draw(1).size


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_deep_images_are_refused(kind: type) -> None:
    deep = Image.fromarray(np.full((4, 4), 40_000, dtype=kind))
    with pytest.raises(UnreadableImageError, match="it has more than 8 bits"):
        decode(encode(deep, "TIFF"), lambda: "it")


def test_an_order_has_every_image_once(data: Photographs) -> None:
    orders = [
        data.train.order(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    ]
    assert orders[0].sort().values.tolist() == list(range(NUM_TRAIN))
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


def test_a_subset_keeps_the_order_of_the_whole(data: Photographs) -> None:
    keep = np.array([9, 2, 17, 4])
    subset = SubsetSource(data.train, keep)
    assert len(subset) == 4
    assert subset.labels.tolist() == data.train.labels[keep].tolist()
    assert subset.name(1) == data.train.name(2)
    assert subset.read(1).tobytes() == data.train.read(2).tobytes()
    whole = data.train.order(torch.Generator().manual_seed(3)).tolist()
    order = subset.order(torch.Generator().manual_seed(3))
    assert keep[order].tolist() == [index for index in whole if index in keep]


def test_limited(data: Photographs) -> None:
    limited = data.limited(6)
    keep = stratified_subset(data.train.labels, 6)
    assert limited.train.labels.tolist() == data.train.labels[keep].tolist()
    assert set(limited.train.labels) == {0, 1, 2}
    assert limited.num_test == data.num_test
    assert limited.fingerprint["hash"] != data.fingerprint["hash"]
    assert data.limited(None) is data.limited(10_000) is data
    assert load(Path(data.train.name(0)).parents[2], limit=6).num_train == 6


def test_the_sample_is_the_same_every_time(data: Photographs) -> None:
    sample = data.sample(5)
    assert sample.shape == (5, 3, 16, 16)
    assert sample.dtype == torch.uint8
    assert torch.equal(sample, data.sample(5))
    assert torch.equal(sample[:2], data.sample(2))
    assert len(data.sample(1000)) == NUM_TRAIN


def test_statistics_are_those_of_the_sample(data: Photographs) -> None:
    mean, std = data.statistics
    pixels = data.sample(1000).double()
    assert mean.tolist() == pytest.approx(pixels.mean((0, 2, 3)).tolist())
    assert std.tolist() == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist())
    assert data.statistics is data.statistics
    given_mean, given_std = find_statistics("imagenet", data)
    assert given_mean.tolist() == pytest.approx([123.675, 116.28, 103.53])
    assert given_std.tolist() == pytest.approx([58.395, 57.12, 57.375])


def test_a_black_channel_has_a_std_of_one(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            image = Image.new("RGB", (20, 20), (0, 7, 200))
            image.save(tmp_path / split / name / "0.png")
    mean, std = load(tmp_path).statistics
    assert mean.tolist() == [0, 7, 200]
    assert std.tolist() == [1, 1, 1]


def test_the_fingerprint_is_of_names_lengths_and_labels(tmp_path: Path) -> None:
    first = write_photographs(tmp_path / "first")
    second = write_photographs(tmp_path / "second")
    fingerprint = load(first).fingerprint
    assert fingerprint == load(second).fingerprint
    assert fingerprint["train"] == NUM_TRAIN
    assert fingerprint["shape"] == [3, 16, 16]
    assert fingerprint["classes"] == list(NAMES)
    last = second / "val" / "cat" / "001.JPEG"
    last.write_bytes(last.read_bytes() + b"\0")
    assert load(second).fingerprint["hash"] != fingerprint["hash"]


def test_a_training_sample_is_a_function_of_image_and_seed(data: Photographs) -> None:
    for augment in ("imagenet", "rand-augment", "three-augment"):
        samples = load(Path(data.train.name(0)).parents[2], augment=augment)
        train = samples.train_samples()
        image, label = train[7, 2**32 - 1]
        assert image.dtype == torch.uint8
        assert image.shape == (3, 16, 16)
        assert label == data.train.labels[7]
        torch.rand(3), random.random(), np.random.rand(3)  # noqa: NPY002
        assert torch.equal(train[7, 2**32 - 1][0], image)
        others = [train[7, seed][0] for seed in range(3)]
        assert not any(torch.equal(other, image) for other in others)


def test_test_samples_are_not_augmented(data: Photographs) -> None:
    image, label = data.test_samples()[4]
    assert label == data.test.labels[4]
    assert torch.equal(image, data.test_samples()[4][0])
    assert len(data.test_samples()) == data.num_test
    assert len(data.train_samples()) == NUM_TRAIN


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_processes_make_what_this_one_makes(root: Path, context: str) -> None:
    data = load(root, augment="three-augment")
    keys = [(index % NUM_TRAIN, 1000 + index) for index in range(8)]
    loader = DataLoader(
        data.train_samples(),
        batch_size=4,
        sampler=keys,
        num_workers={"fork": 2, "spawn": 1}[context],  # the latter starts slowly
        multiprocessing_context=context,
    )
    images, labels = (torch.cat(part) for part in zip(*loader, strict=True))
    here = data.train_samples()
    assert torch.equal(images, torch.stack([here[key][0] for key in keys]))
    assert labels.tolist() == [here[key][1] for key in keys]


def test_a_copy_for_a_process_is_small(root: Path) -> None:
    source = load(root).train
    per_image = len(pickle.dumps(source)) / len(source)
    path = len(source.name(0).encode())
    assert per_image < 100 + path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 0}, "--image-size 0: give a finite number above 0"),
        ({"eval_crop": 1.5}, "eval_crop 1.5: give a share above 0, at most 1"),
        ({"augment": "three-augmen"}, "did you mean 'three-augment'"),
        ({"augment": "crop-flip"}, "is not one of photographs"),
        ({"limit": 2}, "--limit 2 is less than one image for each of the 3 classes"),
    ],
)
def test_what_is_no_setting(
    root: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(LabError, match=message) as error:
        load(root, **changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("imagenet", "give --data imagefolder:PATH .* or --data webdataset:PATH"),
        ("voc2007", "voc2007 cannot be downloaded"),
        ("flowers-102", "did you mean 'flowers102'"),
        ("digits", "give one of cifar10, cifar100, flowers102, stanford-cars"),
        ("imagefolder:/nowhere", "/nowhere does not exist"),
        ("webdataset:/nowhere", "/nowhere does not exist"),
    ],
)
def test_data_that_is_not_there(spec: str, message: str) -> None:
    with pytest.raises(LabError, match=message):
        load(spec)


def test_pixels_are_those_of_the_file(data: Photographs) -> None:
    """A PNG is kept exactly: what is decoded is what was drawn."""
    assert torch.equal(PILToTensor()(data.train.read(0)), PILToTensor()(draw(0)))
