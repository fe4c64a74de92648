"""Image augmentation of the paper's CIFAR experiments, on bytes, before normalisation.

Every pipeline exists twice. `Pipeline.apply` changes a whole batch where it lies, each
image by its own draws; `Pipeline.transform` is what a worker process does to one image
with torchvision's own random transforms on PIL images, as the sources of the paper's
experiments do. Both come from the same steps and have the same distribution.

Shape suffixes: B images, C channels, H height, W width, K draws of one image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from trainact.lab.data.autoaugment import AutoAugment
from trainact.lab.errors import LabError, did_you_mean

PADDING = 4


class Step(Protocol):
    """One change of an image, drawn anew for each."""

    # Numbers between 0 and 1 that decide what happens to one image.
    num_draws: ClassVar[int]

    def apply(self, images_BCHW: Tensor, draws_BK: Tensor) -> Tensor:
        """Change a batch on its device; the draws are on the CPU."""
        ...

    def transforms(self, height: int, width: int) -> Sequence[Callable[[Any], Any]]:
        """What torchvision does to one PIL image, with torch's generator."""
        ...


@dataclass(frozen=True)
class CropFlip:
    """A crop of the zero-padded image, mirrored half of the time."""

    num_draws: ClassVar[int] = 3

    def apply(self, images_BCHW: Tensor, draws_BK: Tensor) -> Tensor:
        """Crop and flip each image by its draws."""
        vertical_B, horizontal_B, flip_B = draws_BK.unbind(1)
        num_shifts = 2 * PADDING + 1
        return crop_flip(
            images_BCHW,
            (vertical_B * num_shifts).long(),
            (horizontal_B * num_shifts).long(),
            flip_B < 0.5,
        )

    def transforms(self, height: int, width: int) -> Sequence[Callable[[Any], Any]]:
        """RandomCrop and RandomHorizontalFlip."""
        from torchvision.transforms import RandomCrop, RandomHorizontalFlip

        return RandomCrop((height, width), padding=PADDING), RandomHorizontalFlip()


@dataclass(frozen=True)
class Rotation:
    """A rotation about the centre; nearest pixel, zero outside."""

    max_degrees: float
    num_draws: ClassVar[int] = 1

    def apply(self, images_BCHW: Tensor, draws_BK: Tensor) -> Tensor:
        """Rotate each image by its draw."""
        return rotate(images_BCHW, (2 * draws_BK[:, 0] - 1) * self.max_degrees)

    def transforms(self, height: int, width: int) -> Sequence[Callable[[Any], Any]]:
        """RandomRotation."""
        from torchvision.transforms import RandomRotation

        del height, width  # any
        return (RandomRotation(self.max_degrees),)


@dataclass(frozen=True)
class Pipeline:
    """Steps one after the other.

    Attributes:
        steps: in order.
    """

    steps: tuple[Step, ...] = ()

    def draw(self, num_images: int, generator: torch.Generator) -> Tensor:
        """Draw all that `apply` will need.

        Args:
            num_images: how many images will be augmented.
            generator: on the CPU, so that every device sees the same draws.

        Returns:
            Uniform numbers [num_images, K], float64 on the CPU; a row for each image.
        """
        num_draws = sum(step.num_draws for step in self.steps)
        shape = (num_images, num_draws)
        return torch.rand(shape, dtype=torch.float64, generator=generator)

    def apply(self, images_BCHW: Tensor, draws_BK: Tensor) -> Tensor:
        """Augment a batch.

        Args:
            images_BCHW: uint8 of 1 or 3 channels, on any device.
            draws_BK: rows of what `draw` returned.

        Returns:
            The augmented images, of the same shape; the images where nothing is done.
        """
        sizes = [step.num_draws for step in self.steps]
        for step, own_BK in zip(self.steps, draws_BK.split(sizes, 1), strict=True):
            images_BCHW = step.apply(images_BCHW, own_BK)
        return images_BCHW

    def transform(self, height: int, width: int) -> Callable[[Tensor], Tensor]:
        """Build the transform of a worker process.

        Args:
            height: of the images.
            width: of the images.

        Returns:
            Maps bytes [C, H, W] to bytes [C, H, W]; draws from torch's own generator.
        """
        from torchvision.transforms import Compose, PILToTensor, ToPILImage

        if not self.steps:
            return Compose([])
        changes = [
            each for step in self.steps for each in step.transforms(height, width)
        ]
        return Compose([ToPILImage(), *changes, PILToTensor()])


PIPELINES: dict[str, Pipeline] = {
    "none": Pipeline(),
    "crop-flip": Pipeline((CropFlip(),)),
    "crop-flip-rotate": Pipeline((CropFlip(), Rotation(15.0))),
    "crop-flip-autoaugment": Pipeline((CropFlip(), AutoAugment())),
}


def find_augmentation(name: str) -> Pipeline:
    """Look an augmentation up.

    Args:
        name: a key of `PIPELINES`.

    Returns:
        The pipeline.

    Raises:
        LabError: if there is none of that name.
    """
    if name not in PIPELINES:
        raise LabError(
            f"augmentation {name!r} is not known{did_you_mean(name, PIPELINES)}: give "
            f"one of {', '.join(PIPELINES)}"
        )
    return PIPELINES[name]


def crop_flip(
    images_BCHW: Tensor, top_B: Tensor, left_B: Tensor, is_flipped_B: Tensor
) -> Tensor:
    """Crop each image from its zero-padded self and mirror some, in one gather.

    Args:
        images_BCHW: on any device.
        top_B: first row of the crop in the padded image, from 0 to twice the padding.
        left_B: first column, likewise.
        is_flipped_B: which crops are mirrored left to right.

    Returns:
        Images of the same shape.
    """
    device = images_BCHW.device
    num_channels, height, width = images_BCHW.shape[1:]
    columns_W = torch.arange(width, device=device)
    flipped_B1 = is_flipped_B.to(device)[:, None]
    columns_BW = torch.where(flipped_B1, columns_W.flip(0), columns_W)
    columns_BW = columns_BW + left_B.to(device)[:, None]
    rows_BH = torch.arange(height, device=device) + top_B.to(device)[:, None]
    source_BHW = rows_BH[:, :, None] * (width + 2 * PADDING) + columns_BW[:, None, :]
    padded_BCP = pad(images_BCHW, [PADDING] * 4).flatten(2)
    source_BCP = source_BHW.flatten(1)[:, None].expand(-1, num_channels, -1)
    return padded_BCP.gather(2, source_BCP).view(images_BCHW.shape)


def rotate(images_BCHW: Tensor, degrees_B: Tensor) -> Tensor:
    """Rotate each image counter-clockwise about its centre by its own angle.

    Args:
        images_BCHW: bytes on any device.
        degrees_B: float64 on the CPU.

    Returns:
        Images of the same shape: the nearest pixel, and zero from outside.
    """
    device = images_BCHW.device
    height, width = images_BCHW.shape[2:]
    # In the order and precision of torchvision's rotate: where a pixel lies half-way
    # between two others, rounding decides which of them it becomes.
    angle_B = torch.deg2rad(degrees_B)
    cos_B, sin_B = angle_B.cos().float(), angle_B.sin().float()
    matrix_B22 = torch.stack((cos_B, sin_B, -sin_B, cos_B), 1).view(-1, 2, 2)
    matrix_B22 = matrix_B22 / torch.tensor([0.5 * width, 0.5 * height])
    y_H = torch.linspace((1 - height) * 0.5, (height - 1) * 0.5, height)
    x_W = torch.linspace((1 - width) * 0.5, (width - 1) * 0.5, width)
    points_HW2 = torch.stack(torch.meshgrid(x_W, y_H, indexing="xy"), 2)
    grid_BP2 = points_HW2.view(1, -1, 2).to(device) @ matrix_B22.to(device)
    grid_BHW2 = grid_BP2.view(-1, height, width, 2)
    rotated_BCHW = grid_sample(
        images_BCHW.float(), grid_BHW2, mode="nearest", align_corners=False
    )
    return rotated_BCHW.to(images_BCHW.dtype)
