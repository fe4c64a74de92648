"""Image sets in memory: what is read, split, limited and fingerprinted."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.lab.conftest import Cli, make_folder, make_images
from trainact.lab.data import load_data
from trainact.lab.data.images import ImageData, shares, stratified_subset
from trainact.lab.errors import LabError


def test_digits() -> None:
    data = load_data("digits", Path("unused"))
    assert data.train_images.shape == (1347, 1, 8, 8)
    assert data.test_images.shape == (450, 1, 8, 8)
    assert data.train_images.dtype == torch.uint8
    assert data.train_images.max() == 16
    counts = torch.bincount(data.test_labels)
    assert counts.min() >= 43
    assert counts.max() <= 46
    again = load_data("digits", Path("unused"))
    assert again.fingerprint == data.fingerprint


def test_limit_keeps_every_class() -> None:
    whole = load_data("digits", Path("unused"))
    data = load_data("digits", Path("unused"), limit=105)
    counts = torch.bincount(data.train_labels)
    assert len(data.train_labels) == 105
    assert set(counts.tolist()) <= {10, 11}
    assert len(data.test_labels) == 450
    assert data.fingerprint["hash"] != whole.fingerprint["hash"]
    assert data.fingerprint == whole.limited(105).fingerprint
    larger = load_data("digits", Path("unused"), limit=10_000)
    assert larger.fingerprint == whole.fingerprint


def test_a_held_out_tenth_is_disjoint_stratified_and_fixed() -> None:
    labels = torch.arange(4).repeat(50)
    images = torch.arange(200, dtype=torch.uint8).view(-1, 1, 1, 1)
    every = ImageData(images, labels, images[:3], labels[:3], tuple("abcd"))
    held = every.held_out()
    train, test = (
        set(x.flatten().tolist()) for x in (held.train_images, held.test_images)
    )
    assert not train & test
    assert train | test == set(range(200))
    assert held.test_labels.bincount().tolist() == [5] * 4
    assert torch.equal(held.test_labels, labels[held.test_images.flatten().long()])
    assert every.held_out().fingerprint == held.fingerprint
    with pytest.raises(LabError, match="one training image"):
        every.limited(4).held_out()


def test_shares_add_up() -> None:
    counts = np.array([5, 3, 2])
    for total in range(1, 11):
        given = shares(counts, total)
        assert given.sum() == total
        assert (given <= counts).all()
    assert shares(counts, 10).tolist() == [5, 3, 2]
    assert shares(counts, 5).tolist() in ([3, 1, 1], [2, 2, 1])


def test_a_subset_is_the_same_every_time() -> None:
    labels = np.arange(100) % 4
    first, second = stratified_subset(labels, 20), stratified_subset(labels, 20)
    assert (first == second).all()
    assert np.bincount(labels[first]).tolist() == [5, 5, 5, 5]


def test_statistics_are_those_of_the_training_images() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5000, 2, 3, 4), generator=generator).byte()
    images[:, 1] = 7
    labels = torch.arange(5000) % 2
    data = ImageData(images, labels, images[:2] * 0, labels[:2], ("a", "b"))
    mean, std = data.statistics
    assert mean[0] == pytest.approx(images[:, 0].double().mean().item())
    assert std[0] == pytest.approx(images[:, 0].double().std(correction=0).item())
    assert (mean[1], std[1]) == (7, 1), "a constant channel is not divided by zero"


def test_folder_with_splits(tmp_path: Path) -> None:
    root = make_folder(tmp_path, count=5, size=(6, 4))
    data = load_data(f"imagefolder:{root}", Path("unused"))
    assert data.train_images.shape == (10, 3, 4, 6)
    assert data.test_images.shape == (8, 3, 4, 6)
    assert data.classes == ("cat", "dog")
    assert data.train_labels.tolist() == 5 * [0] + 5 * [1]
    with Image.open(root / "train" / "dog" / "002.png") as image:
        expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert torch.equal(data.train_images[7], expected)


def test_folder_without_splits(tmp_path: Path) -> None:
    for name, count in (("cat", 10), ("dog", 20)):
        make_images(tmp_path / name, count)
    data = load_data(f"imagefolder:{tmp_path}", Path("unused"))
    assert torch.bincount(data.train_labels).tolist() == [8, 16]
    assert torch.bincount(data.test_labels).tolist() == [2, 4]
    together = torch.cat([data.train_images, data.test_images]).flatten(1)
    assert len(together.unique(dim=0)) == 30, "every image is in one part only"
    again = load_data(f"imagefolder:{tmp_path}", Path("unused"))
    assert again.fingerprint == data.fingerprint


def test_val_serves_as_test_and_train_alone_is_split(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "a", count=10)
    (root / "test").rename(root / "val")
    data = load_data(f"imagefolder:{root}", Path("unused"))
    assert (len(data.train_labels), len(data.test_labels)) == (20, 8)
    (root / "val").rename(tmp_path / "elsewhere")
    data = load_data(f"imagefolder:{root}", Path("unused"))
    assert (len(data.train_labels), len(data.test_labels)) == (16, 4)


def test_grey_images_have_one_channel_unless_one_is_coloured(tmp_path: Path) -> None:
    root = make_folder(tmp_path, mode="L")
    assert load_data(f"imagefolder:{root}", Path()).image_shape == (1, 8, 8)
    make_images(root / "test" / "dog", 1, mode="RGB")
    assert load_data(f"imagefolder:{root}", Path()).image_shape == (3, 8, 8)


def test_image_size_resizes_the_shorter_side_and_keeps_the_centre(
    tmp_path: Path,
) -> None:
    root = make_folder(tmp_path, count=3, size=(8, 8))
    values = np.zeros((8, 24, 3), dtype=np.uint8)
    values[:, 8:16] = 200
    Image.fromarray(values).save(root / "train" / "cat" / "000.png")
    data = load_data(f"imagefolder:{root}", Path(), image_size=4)
    assert data.image_shape == (3, 4, 4)
    # As in a resize before a centre crop, the border blends with what is beside it.
    assert (data.train_images[0, :, :, 1:3] == 200).all()
    assert data.train_images[0].min() > 150


def test_transparent_and_palette_images_are_read(tmp_path: Path) -> None:
    root = make_folder(tmp_path, count=3)
    with Image.open(root / "train" / "cat" / "000.png") as image:
        palette = image.convert("P")
    palette.save(root / "train" / "cat" / "001.png", transparency=b"\x00\x10")
    with Image.open(root / "train" / "cat" / "000.png") as image:
        image.convert("RGBA").save(root / "train" / "cat" / "002.png")
    data = load_data(f"imagefolder:{root}", Path())
    assert torch.equal(data.train_images[0], data.train_images[2])


def test_a_limit_decodes_only_what_it_keeps(tmp_path: Path) -> None:
    root = make_folder(tmp_path, count=10)
    data = load_data(f"imagefolder:{root}", Path(), limit=4)
    assert torch.bincount(data.train_labels).tolist() == [2, 2]
    kept = {image.numpy().tobytes() for image in data.train_images}
    for file in (root / "train").glob("*/*.png"):
        with Image.open(file) as image:
            pixels = np.array(image).transpose(2, 0, 1).tobytes()
        if pixels not in kept:
            file.write_bytes(b"damaged")
    again = load_data(f"imagefolder:{root}", Path(), limit=4)
    assert again.fingerprint == data.fingerprint
    with pytest.raises(LabError, match="cannot read image"):
        load_data(f"imagefolder:{root}", Path())


def write_idx(path: Path, values: np.ndarray) -> None:
    """The format of MNIST's files."""
    header = struct.pack(">HBB", 0, 8, values.ndim)
    sizes = struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(header + sizes + values.astype(np.uint8).tobytes())


IMAGES = np.arange(6 * 28 * 28).reshape(6, 28, 28) % 256


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A few images as torchvision's FashionMNIST keeps them."""
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for prefix in ("train", "t10k"):
        write_idx(folder / f"{prefix}-images-idx3-ubyte", IMAGES)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", np.arange(6))
    return folder


def test_a_downloaded_torchvision_set_is_read_without_a_network(
    raw: Path, tmp_path: Path
) -> None:
    data = load_data("fashion-mnist", tmp_path)
    assert raw.is_relative_to(tmp_path)
    assert data.train_images.shape == (6, 1, 28, 28)
    assert torch.equal(data.train_images[3, 0], torch.from_numpy(IMAGES[3]).byte())
    assert data.num_classes == 10


def test_a_download_that_was_altered_is_said_to_be(raw: Path, tmp_path: Path) -> None:
    labels = raw / "train-labels-idx1-ubyte"
    write_idx(labels, np.array([0, 1, 2, 3, 4, 10]))
    with pytest.raises(LabError, match="labels of the training images go from 0 to 10"):
        load_data("fashion-mnist", tmp_path)
    labels.write_bytes(labels.read_bytes()[:-1])
    with pytest.raises(LabError, match=f"{raw} has other files than fashion-mnist's"):
        load_data("fashion-mnist", tmp_path)


@pytest.mark.parametrize(
    ("model", "layer"),
    [
        ("torchvision:resnet18", "conv1"),
        ("timm:resnet10t", "conv1.0"),
        ("timm:vit_tiny_patch16_224", "patch_embed.proj"),
    ],
)
def test_models_of_torchvision_and_timm_train(
    compare: Cli, tmp_path: Path, model: str, layer: str
) -> None:
    root = make_folder(tmp_path / "images", count=4, size=(32, 32))
    outcome = compare(
        *("--data", f"imagefolder:{root}", "--model", model, "--epochs", "1"),
        *("--batch-size", "4", "--seeds", "0", "--device", "cpu"),
    )
    assert outcome.code == 0, outcome.err
    text = (tmp_path / "out" / "records.jsonl").read_text(encoding="utf-8")
    assert f'"layers": ["{layer}"]' in text.splitlines()[1]


def test_a_timm_model_is_built_for_grey_images(compare: Cli) -> None:
    outcome = compare(
        *("--model", "timm:resnet10t", "--epochs", "1", "--limit", "16"),
        *("--batch-size", "8", "--seeds", "0", "--device", "cpu"),
    )
    assert outcome.code == 0, outcome.err
