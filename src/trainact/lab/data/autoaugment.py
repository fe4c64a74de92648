"""AutoAugment's CIFAR-10 policy as the ViT-CIFAR repository applies it (Figure 4).

The 25 pairs of operations, their probabilities and levels are torchvision's, and so are
the operations, but for the shear. On tensors, Contrast, Color, Sharpness and
AutoContrast differ from those on PIL images by at most one grey level. What differs
from torchvision's `AutoAugment`:

1. Grey 128 fills what comes from outside the image; torchvision's default is black.
2. The shear is bicubic; torchvision's default is the nearest pixel.
3. A translation is a share of the side, up to 150/331, not a whole number of pixels.
4. A rotation is always counter-clockwise; torchvision draws its sign.
5. The thresholds of Solarize run from 256 to 0; torchvision's start at 255.

References: Cubuk et al., AutoAugment, CVPR 2019; github.com/omihub777/ViT-CIFAR.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from PIL.Image import Image, Resampling, Transform
from torch import Tensor

GREY = 128
FILL: list[float] = [GREY]  # as torchvision takes it, for every channel
NUM_LEVELS = 10
# Operation → its magnitudes at the first and at the last level; others have none.
RANGES = {
    "Brightness": (0.0, 0.9),
    "Color": (0.0, 0.9),
    "Contrast": (0.0, 0.9),
    "Posterize": (8.0, 4.0),
    "Rotate": (0.0, 30.0),
    "Sharpness": (0.0, 0.9),
    "ShearY": (0.0, 0.3),
    "Solarize": (256.0, 0.0),
    "TranslateX": (0.0, 150 / 331),
    "TranslateY": (0.0, 150 / 331),
}
SIGNED = frozenset(RANGES) - {"Posterize", "Rotate", "Solarize"}


@dataclass(frozen=True)
class Choice:
    """One of the two operations of a sub-policy.

    Attributes:
        name: of the operation.
        probability: of applying it.
        level: of its magnitude, from 0 to 9; 0 where it has none.
    """

    name: str
    probability: float
    level: int

    def magnitude(self, sign: int) -> float:
        """Compute the number that the operation takes.

        Args:
            sign: 1 or -1; counts where one is drawn, see `SIGNED`.

        Returns:
            The magnitude at this level; 0 where the operation has none.
        """
        if self.name not in RANGES:
            return 0.0
        first, last = RANGES[self.name]
        value = first + (last - first) * self.level / (NUM_LEVELS - 1)
        return sign * value if self.name in SIGNED else value


@cache
def policy() -> tuple[tuple[Choice, Choice], ...]:
    """Take torchvision's table.

    Returns:
        The sub-policies, of which each image gets one: two operations in order.
    """
    from torchvision.transforms import autoaugment

    table = autoaugment.AutoAugment(autoaugment.AutoAugmentPolicy.CIFAR10).policies
    pairs = [[Choice(name, p, level or 0) for name, p, level in pair] for pair in table]
    return tuple((first, second) for first, second in pairs)


@dataclass(frozen=True)
class AutoAugment:
    """One sub-policy drawn for each image."""

    num_draws: ClassVar[int] = 5

    def apply(self, images_BCHW: Tensor, draws_BK: Tensor) -> Tensor:
        """Apply to each image what its draws say, alike ones together."""
        table = _tabulate()
        pair_B = (draws_BK[:, 0] * len(policy())).long()
        images_BCHW = images_BCHW.clone()
        for place in (0, 1):
            is_on_B = draws_BK[:, 1 + place] < table.probabilities[pair_B, place]
            sign_B = (draws_BK[:, 3 + place] < 0.5).long()
            operation_B = table.numbers[pair_B, place, sign_B]
            for number in operation_B[is_on_B].unique().tolist():
                members = (is_on_B & (operation_B == number)).nonzero().squeeze(1)
                members = members.to(images_BCHW.device)
                name, magnitude = table.operations[number]
                changed = apply_operation(images_BCHW[members], name, magnitude)
                images_BCHW[members] = changed
        return images_BCHW

    def transforms(self, height: int, width: int) -> Sequence[Callable[[Any], Any]]:
        """The same for one PIL image."""
        del height, width  # any
        return (transform,)


def transform(image: Image) -> Image:
    """Apply a sub-policy drawn from torch's generator.

    Args:
        image: grey or RGB.

    Returns:
        The changed image.
    """
    pair = policy()[int(torch.randint(len(policy()), ()))]
    for choice in pair:
        if float(torch.rand(())) < choice.probability:
            sign = 1 - 2 * int(torch.randint(2, ()))
            image = apply_operation(image, choice.name, choice.magnitude(sign))
    return image


@dataclass(frozen=True)
class _Table:
    """The policy as tensors (P pairs, 2 places, 2 signs) over distinct operations."""

    operations: tuple[tuple[str, float], ...]
    numbers: Tensor
    probabilities: Tensor


@cache
def _tabulate() -> _Table:
    all_P22 = [
        [[(each.name, each.magnitude(sign)) for sign in (1, -1)] for each in pair]
        for pair in policy()
    ]
    distinct = sorted({each for pair in all_P22 for place in pair for each in place})
    number = {operation: index for index, operation in enumerate(distinct)}
    return _Table(
        tuple(distinct),
        torch.tensor([[[number[op] for op in place] for place in p] for p in all_P22]),
        torch.tensor(
            [[each.probability for each in pair] for pair in policy()],
            dtype=torch.float64,
        ),
    )


def apply_operation(image: Any, name: str, magnitude: float) -> Any:
    """Apply one operation with torchvision's function for it.

    Args:
        image: bytes [..., C, H, W] or a PIL image.
        name: of the operation.
        magnitude: see `RANGES`; not used by operations without.

    Returns:
        The changed image or images, of the same kind.
    """
    return _operations()[name](image, magnitude)


@cache
def _operations() -> dict[str, Callable[[Any, float], Any]]:
    from torchvision.transforms.v2 import functional as F

    def translate(image: Any, x: float, y: float) -> Any:
        height, width = F.get_size(image)
        shift = [x * width, y * height]
        return F.affine(image, 0.0, shift, 1.0, [0.0, 0.0], fill=FILL)

    return {
        "AutoContrast": lambda image, _: F.autocontrast(image),
        "Brightness": lambda image, change: F.adjust_brightness(image, 1 + change),
        "Color": lambda image, change: F.adjust_saturation(image, 1 + change),
        "Contrast": lambda image, change: F.adjust_contrast(image, 1 + change),
        "Equalize": lambda image, _: F.equalize(image),
        "Invert": lambda image, _: F.invert(image),
        "Posterize": lambda image, bits: F.posterize(image, round(bits)),
        "Rotate": lambda image, degrees: F.rotate(image, degrees, fill=FILL),
        "Sharpness": lambda image, change: F.adjust_sharpness(image, 1 + change),
        "ShearY": _shear_y,
        "Solarize": F.solarize,
        "TranslateX": lambda image, share: translate(image, share, 0.0),
        "TranslateY": lambda image, share: translate(image, 0.0, share),
    }


def _shear_y(image: Any, slope: float) -> Any:
    """Shear about the upper left corner; grey where the source lies outside."""
    if isinstance(image, Tensor):
        return shear_y(image, slope)
    matrix = (1.0, 0.0, 0.0, slope, 1.0, 0.0)
    grey = (GREY,) * len(image.getbands())
    return image.transform(
        image.size, Transform.AFFINE, matrix, Resampling.BICUBIC, fillcolor=grey
    )


def shear_y(images_BCHW: Tensor, slope: float) -> Tensor:
    """Shift each column by its distance from the left edge, exactly as Pillow does.

    torchvision's affine is not bicubic for tensors. Pillow's cubic has the coefficient
    -1, takes the nearest row where one is missing and rounds down; torch's grid_sample
    has -0.75 and blends with the fill.

    Args:
        images_BCHW: bytes.
        slope: rows per column.

    Returns:
        Images of the same shape; grey where the source lies outside.
    """
    device = images_BCHW.device
    real = torch.float32 if device.type == "mps" else torch.float64
    height, width = images_BCHW.shape[-2:]
    y_H1 = torch.arange(height, device=device, dtype=real)[:, None] + 0.5
    x_W = torch.arange(width, device=device, dtype=real) + 0.5
    source_HW = slope * x_W + y_H1
    below_HW = (source_HW - 0.5).floor()
    t = source_HW - 0.5 - below_HW
    rows_4HW = torch.stack([below_HW.long() + offset for offset in (-1, 0, 1, 2)])
    a, b, c, d = (
        images_BCHW.gather(-2, rows_HW.expand_as(images_BCHW)).to(real)
        for rows_HW in rows_4HW.clamp(0, height - 1)
    )
    cubic = b + t * ((c - a) + t * ((2 * (a - b) + c - d) + t * (b - a + d - c)))
    is_inside_HW = (source_HW >= 0) & (source_HW < height)
    return torch.where(is_inside_HW, cubic.clamp(0, 255).byte(), GREY)
