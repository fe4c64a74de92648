"""Augmentation in batches is exactly torchvision's, image by image, for given draws.

AutoAugment's operations are also compared with Pillow's, which ViT-CIFAR calls.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from trainact.lab.data.augment import crop_flip, rotate
from trainact.lab.data.autoaugment import AutoAugment, Choice, apply_operation, policy

SHAPES = [(3, 32, 32), (1, 8, 8), (3, 7, 12)]
# As in ViT-CIFAR: first and last of ten magnitudes, and whether a sign is drawn.
TABLE = {
    "ShearY": (0, 0.3, True),
    "TranslateX": (0, 150 / 331, True),
    "TranslateY": (0, 150 / 331, True),
    "Rotate": (0, 30, False),
    "Color": (0, 0.9, True),
    "Posterize": (8, 4, False),
    "Solarize": (256, 0, False),
    "Contrast": (0, 0.9, True),
    "Sharpness": (0, 0.9, True),
    "Brightness": (0, 0.9, True),
}
# torchvision rounds these differently for tensors and for PIL images.
ROUNDED = {"AutoContrast", "Color", "Contrast", "Sharpness"}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int, shape: tuple[int, int, int] = (3, 32, 32)) -> Tensor:
    """Images with smooth and rough parts, dark and bright ones."""
    rough = torch.randint(0, 256, (count, *shape), generator=generator())
    smooth = torch.rand((count, shape[0], 3, 3), generator=generator()) * 255
    smooth = torch.nn.functional.interpolate(smooth, shape[1:], mode="bilinear")
    is_rough = torch.arange(count).view(-1, 1, 1, 1) % 2 == 0
    return torch.where(is_rough, rough, smooth).byte()


def draw(count: int, num_draws: int) -> Tensor:
    return torch.rand(count, num_draws, dtype=torch.float64, generator=generator())


@pytest.mark.parametrize("shape", SHAPES)
def test_every_crop_and_flip_is_torchvisions(shape: tuple[int, int, int]) -> None:
    top, left, flip = torch.cartesian_prod(*map(torch.arange, (9, 9, 2))).unbind(1)
    images = noise(len(top), shape)
    found = crop_flip(images, top, left, flip == 1)
    for index, image in enumerate(images):
        corner = int(top[index]), int(left[index])
        expected = F.crop(F.pad(image, [4]), *corner, *shape[1:])
        expected = F.horizontal_flip(expected) if flip[index] else expected
        assert torch.equal(found[index], expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_rotation_is_torchvisions(shape: tuple[int, int, int]) -> None:
    whole = torch.arange(-45, 46).double()
    drawn = torch.rand(100, generator=generator()).double() * 30 - 15
    degrees = torch.cat([whole, drawn])
    images = noise(len(degrees), shape)
    found = rotate(images, degrees)
    for index, image in enumerate(images):
        expected = F.rotate(image, float(degrees[index]), fill=[0])
        assert torch.equal(found[index], expected)


def draws_of_everything() -> tuple[Tensor, list[tuple[int, bool, bool, int, int]]]:
    """A row of draws for every sub-policy, with each part on or off, with each sign."""
    on, signs = (True, False), (1, -1)
    cases = list(itertools.product(range(25), on, on, signs, signs))
    rows = [
        (
            (pair + 0.5) / 25,
            *(0.0 if is_on else 1 - 1e-9 for is_on in both),
            *(0.75 if sign > 0 else 0.25 for sign in two_signs),
        )
        for pair, *rest in cases
        for both, two_signs in [(rest[:2], rest[2:])]
    ]
    return torch.tensor(rows, dtype=torch.float64), cases


@pytest.mark.parametrize("shape", SHAPES)
def test_every_operation_is_torchvisions_and_pillows(
    shape: tuple[int, int, int],
) -> None:
    draws, cases = draws_of_everything()
    images = noise(len(cases), shape)
    before = images.clone()
    found = AutoAugment().apply(images, draws)
    assert torch.equal(images, before), "the argument is left alone"
    for image, result, (pair, *is_on, sign, other) in zip(
        images, found, cases, strict=True
    ):
        chosen = zip(policy()[pair], is_on, (sign, other), strict=True)
        applied = [(c, one) for c, on, one in chosen if on and c.probability > 0]
        tensor, picture = image, F.to_pil_image(image)
        for choice, one in applied:
            tensor = apply_operation(tensor, choice.name, choice.magnitude(one))
            picture = by_pillow(picture, choice.name, choice.level, one)
        assert torch.equal(result, tensor), applied
        # A second operation may enlarge what the first one rounded: not compared then.
        is_rounded = any(choice.name in ROUNDED for choice, _ in applied)
        if len(applied) < 2 or not is_rounded:
            difference = (result.int() - F.pil_to_tensor(picture).int()).abs()
            assert difference.max() <= is_rounded, applied


def by_pillow(image: Image.Image, name: str, level: int, sign: int) -> Image.Image:
    """One operation in Pillow's own terms."""
    first, last, is_signed = TABLE.get(name, (0, 0, False))
    value = float(np.linspace(first, last, 10)[level]) * (sign if is_signed else 1)
    grey = (128,) * len(image.getbands())

    def affine(*matrix: float, **options: Any) -> Image.Image:
        kind = Image.Transform.AFFINE
        return image.transform(image.size, kind, matrix, fillcolor=grey, **options)

    if name in ("Brightness", "Color", "Contrast", "Sharpness"):
        return getattr(ImageEnhance, name)(image).enhance(1 + value)
    operations: dict[str, Callable[[], Image.Image]] = {
        "AutoContrast": lambda: ImageOps.autocontrast(image),
        "Equalize": lambda: ImageOps.equalize(image),
        "Invert": lambda: ImageOps.invert(image),
        "Posterize": lambda: ImageOps.posterize(image, round(value)),
        "Rotate": lambda: image.rotate(value, fillcolor=grey),
        "ShearY": lambda: affine(
            1, 0, 0, value, 1, 0, resample=Image.Resampling.BICUBIC
        ),
        "Solarize": lambda: ImageOps.solarize(image, value),
        "TranslateX": lambda: affine(1, 0, -value * image.width, 0, 1, 0),
        "TranslateY": lambda: affine(1, 0, 0, 0, 1, -value * image.height),
    }
    return operations[name]()


@pytest.mark.parametrize("shape", SHAPES)
def test_operations_on_pil_images_are_pillows(shape: tuple[int, int, int]) -> None:
    for image in map(F.to_pil_image, noise(4, shape)):
        for choice in {choice for pair in policy() for choice in pair}:
            for sign in (1, -1):
                found = apply_operation(image, choice.name, choice.magnitude(sign))
                expected = by_pillow(image, choice.name, choice.level, sign)
                assert found.tobytes() == expected.tobytes(), (choice, sign)


def test_the_policy_is_that_of_the_source() -> None:
    assert len(policy()) == 25
    assert policy()[1] == (Choice("Rotate", 0.7, 2), Choice("TranslateX", 0.3, 9))
    assert policy()[20] == (Choice("Solarize", 0.4, 5), Choice("AutoContrast", 0.9, 0))
    choices = {choice for pair in policy() for choice in pair}
    without = {"AutoContrast", "Equalize", "Invert"}
    # ShearX is in the source's table and in none of its sub-policies.
    assert {choice.name for choice in choices} == {*TABLE, *without}
    for choice in choices:
        first, last, is_signed = TABLE.get(choice.name, (0, 0, False))
        value = np.linspace(first, last, 10)[choice.level]
        assert choice.magnitude(1) == pytest.approx(value)
        assert choice.magnitude(-1) == pytest.approx(-value if is_signed else value)


def test_a_rotation_is_counter_clockwise_on_grey() -> None:
    image = torch.zeros(1, 1, 33, 33, dtype=torch.uint8)
    image[..., 16, 17:] = 255  # from the centre to the right
    turned = apply_operation(image, "Rotate", 30.0)
    rows, columns = (turned[0, 0] == 255).nonzero().unbind(1)
    assert (rows[columns > 20] < 16).all()
    assert turned[0, 0, 0, 0] == 128
