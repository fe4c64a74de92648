"""What is done to a photograph.

- The test transform keeps the centre, exactly, where nothing has to be resized.
- ``imagenet`` crops and flips as torchvision's defaults do.
- ``three-augment`` takes greyscale, solarisation from 128 and blur of a radius between
  0.1 and 2 a third of the time each, and then changes the colours by up to 30 %.
- ``three-augment-src`` crops from the resized image, whose border is reflected.
- ``rand-augment`` is timm's, with the magnitude of DeiT.
"""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter, ImageOps
from timm.data.auto_augment import AutoAugment, RandAugment
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision.transforms import (
    ColorJitter,
    Grayscale,
    InterpolationMode,
    PILToTensor,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
)

from tests.lab.photographic import draw
from trainact.lab.data.augment import PIPELINES
from trainact.lab.data.photographs import (
    AUGMENTATIONS,
    find_test_transform,
    find_train_transform,
    is_photographic,
)


def flat(transform: Any) -> list[Any]:
    """Steps of nested Compose."""
    steps = getattr(transform, "transforms", None)
    return [transform] if steps is None else [s for step in steps for s in flat(step)]


def find(name: str, kind: type) -> Any:
    (step,) = [s for s in flat(find_train_transform(name, 32)) if isinstance(s, kind)]
    return step


def test_names_do_not_clash_with_those_of_images_in_memory() -> None:
    assert not set(AUGMENTATIONS) & set(PIPELINES)
    assert is_photographic("imagenet")
    assert not is_photographic("none")


@pytest.mark.parametrize("name", AUGMENTATIONS)
@given(
    size=st.tuples(st.integers(8, 70), st.integers(8, 70)), target=st.integers(8, 40)
)
def test_any_photograph_becomes_bytes_of_the_size(
    name: str, size: tuple[int, int], target: int
) -> None:
    image = draw(0, size)
    for transform in (
        find_train_transform(name, target),
        find_test_transform(name, target, 0.875),
    ):
        out = transform(image)
        assert out.shape == (3, target, target)
        assert out.dtype == torch.uint8


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_test_transform_keeps_the_centre(name: str) -> None:
    image = draw(0, (300, 256))
    out = find_test_transform(name, 224, 0.875)(image)
    assert torch.equal(out, PILToTensor()(image)[:, 16:240, 38:262])
    whole = draw(0, (224, 224))
    out = find_test_transform(name, 224, 1.0)(whole)
    assert torch.equal(out, PILToTensor()(whole))


@pytest.mark.parametrize(
    ("name", "resampling"),
    [
        ("imagenet", Image.Resampling.BILINEAR),
        ("three-augment", Image.Resampling.BICUBIC),
        ("three-augment-src", Image.Resampling.BICUBIC),
        ("rand-augment", Image.Resampling.BICUBIC),
    ],
)
def test_test_images_are_resized_as_the_training_images(
    name: str, resampling: Image.Resampling
) -> None:
    image = draw(3, (90, 60))
    out = find_test_transform(name, 32, 1.0)(image)
    resized = image.resize((48, 32), resampling)
    assert torch.equal(out, PILToTensor()(resized)[:, :, 8:40])


def test_imagenet_crops_and_flips() -> None:
    crop, flip, _ = flat(find_train_transform("imagenet", 224))
    assert isinstance(crop, RandomResizedCrop)
    assert crop.size == (224, 224)
    assert crop.scale == (0.08, 1.0)
    assert crop.ratio == pytest.approx((3 / 4, 4 / 3))
    assert crop.interpolation == InterpolationMode.BILINEAR
    assert isinstance(flip, RandomHorizontalFlip)
    assert flip.p == 0.5


@pytest.mark.parametrize("name", ["three-augment", "rand-augment"])
def test_deit_crops_bicubically(name: str) -> None:
    crop, flip, *_ = flat(find_train_transform(name, 32))
    assert isinstance(crop, RandomResizedCropAndInterpolation)
    assert tuple(crop.size) == (32, 32)
    assert crop.scale == (0.08, 1.0)
    assert crop.ratio == pytest.approx((3 / 4, 4 / 3))
    assert crop.interpolation == InterpolationMode.BICUBIC
    assert isinstance(flip, RandomHorizontalFlip)
    assert flip.p == 0.5


@pytest.mark.parametrize("name", ["three-augment", "three-augment-src"])
def test_one_of_three(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    radii: list[float] = []
    blur = ImageFilter.GaussianBlur

    def recorded(radius: float) -> ImageFilter.GaussianBlur:
        radii.append(radius)
        return blur(radius)

    monkeypatch.setattr(ImageFilter, "GaussianBlur", recorded)
    choose = find(name, AutoAugment)
    image = draw(0, (24, 24))
    grey = Grayscale(3)(image).tobytes()
    solarised = ImageOps.solarize(image, 128).tobytes()
    random.seed(0)
    counts = {"grey": 0, "solarised": 0, "blurred": 0}
    num = 1800
    for _ in range(num):
        before = len(radii)
        out = choose(image)
        if len(radii) > before:
            assert out.tobytes() == image.filter(blur(radii[-1])).tobytes()
            counts["blurred"] += 1
        else:
            assert out.tobytes() in (grey, solarised)
            counts["grey" if out.tobytes() == grey else "solarised"] += 1
    deviation = math.sqrt(num * (1 / 3) * (2 / 3))
    assert all(abs(count - num / 3) < 4 * deviation for count in counts.values())
    assert 0.1 <= min(radii) < 0.12
    assert 1.98 < max(radii) <= 2.0
    spread = (2.0 - 0.1) / math.sqrt(12)
    assert abs(np.mean(radii) - 1.05) < 4 * spread / math.sqrt(len(radii))


@pytest.mark.parametrize("name", ["three-augment", "three-augment-src"])
def test_colours_change_after_that(name: str) -> None:
    *_, choice, jitter, last = flat(find_train_transform(name, 32))
    assert isinstance(choice, AutoAugment)
    assert isinstance(jitter, ColorJitter)
    for part in (jitter.brightness, jitter.contrast, jitter.saturation):
        assert part == pytest.approx((0.7, 1.3))
    assert jitter.hue is None
    assert "ToTensor" in type(last).__name__


def test_the_simple_crop_is_from_the_reflected_image() -> None:
    resize, *rest = flat(find_train_transform("three-augment-src", 32))
    assert isinstance(resize, Resize)
    assert resize.size == 32
    assert resize.interpolation == InterpolationMode.BICUBIC
    crop, flip = rest[:2]
    image = draw(0, (32, 32))
    padded = np.pad(np.asarray(image), [(4, 4), (4, 4), (0, 0)], mode="reflect")
    windows = {
        padded[top : top + 32, left : left + 32].tobytes(): (top, left)
        for top in range(9)
        for left in range(9)
    }
    assert len(windows) == 81
    found = {windows[crop(image).tobytes()] for _ in range(1500)}
    assert len(found) == 81, "every crop is drawn"
    assert isinstance(flip, RandomHorizontalFlip)


def test_rand_augment_is_that_of_deit() -> None:
    chosen = find("rand-augment", RandAugment)
    assert chosen.num_layers == 2
    assert chosen.choice_weights is None
    assert len(chosen.ops) == 15
    for op in chosen.ops:
        assert (op.prob, op.magnitude, op.magnitude_std) == (0.5, 9, 0.5)
        assert op.hparams["translate_const"] == int(32 * 0.45)
        assert op.hparams["img_mean"] == (124, 116, 104)
        assert op.kwargs["resample"] == Image.Resampling.BICUBIC
    names = {op.name for op in chosen.ops}
    assert {"SolarizeIncreasing", "PosterizeIncreasing", "ColorIncreasing"} <= names
    kinds = [type(step) for step in flat(find_train_transform("rand-augment", 32))]
    assert ColorJitter not in kinds
