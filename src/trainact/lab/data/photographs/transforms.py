"""How a photograph becomes the bytes [3, S, S] that a model is trained or tested on.

``imagenet`` is what residual networks are usually trained with on ImageNet. The others
are DeiT's: ``rand-augment`` of DeiT, ``three-augment`` of DeiT III, and
``three-augment-src`` of DeiT III's fine-tuning, with a simple random crop. All is drawn
from the default generators of torch, of Python and of NumPy.

Shape suffixes: C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from trainact.lab.errors import LabError, did_you_mean

Transform = Callable[[Image.Image], Tensor]

_PADDING = 4
_COLOUR_JITTER = 0.3


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images, and how test images are resized.

    Attributes:
        train: makes the transform for a size.
        interpolation: of test images, as torchvision and timm call it.
    """

    train: Callable[[int], Transform]
    interpolation: str


def _imagenet(size: int) -> Transform:
    from torchvision.transforms import (
        Compose,
        PILToTensor,
        RandomHorizontalFlip,
        RandomResizedCrop,
    )

    steps = [RandomResizedCrop(size), RandomHorizontalFlip(), PILToTensor()]
    return Compose(steps)


def _rand_augment(size: int) -> Transform:
    return _timm(size, auto_augment="rand-m9-mstd0.5-inc1")


def _three_augment(size: int) -> Transform:
    return _timm(size, auto_augment="3a", color_jitter=_COLOUR_JITTER)


def _three_augment_src(size: int) -> Transform:
    from torchvision.transforms import (
        Compose,
        InterpolationMode,
        RandomCrop,
        RandomHorizontalFlip,
        Resize,
    )

    _, *rest = _timm(
        size, auto_augment="3a", color_jitter=_COLOUR_JITTER, separate=True
    )
    first = [
        Resize(size, InterpolationMode.BICUBIC),
        RandomCrop(size, padding=_PADDING, padding_mode="reflect"),
        RandomHorizontalFlip(),
    ]
    return Compose([*first, *rest])


def _timm(size: int, **options: Any) -> Any:
    from timm.data.transforms_factory import transforms_imagenet_train

    return transforms_imagenet_train(
        size, interpolation="bicubic", normalize=False, **options
    )


AUGMENTATIONS: dict[str, Augmentation] = {
    "imagenet": Augmentation(_imagenet, "bilinear"),
    "rand-augment": Augmentation(_rand_augment, "bicubic"),
    "three-augment": Augmentation(_three_augment, "bicubic"),
    "three-augment-src": Augmentation(_three_augment_src, "bicubic"),
}


def is_photographic(name: str) -> bool:
    """Whether an augmentation is for photographs of any size.

    Args:
        name: of any augmentation.

    Returns:
        False where it is for images in memory, all of one size.
    """
    return name in AUGMENTATIONS


def find_train_transform(name: str, size: int) -> Transform:
    """Build the transform of training images.

    Args:
        name: a key of `AUGMENTATIONS`.
        size: height and width S of what comes out.

    Returns:
        Maps an RGB image to bytes [3, S, S].
    """
    return _find(name).train(size)


def find_test_transform(name: str, size: int, eval_crop: float) -> Transform:
    """Build the transform of test images: resized, then the centre of it.

    Args:
        name: a key of `AUGMENTATIONS`, which decides about the interpolation.
        size: height and width S of what comes out.
        eval_crop: S as a share of the shorter side of the resized image.

    Returns:
        Maps an RGB image to bytes [3, S, S].

    Raises:
        LabError: if the share is none.
    """
    from torchvision.transforms import (
        CenterCrop,
        Compose,
        InterpolationMode,
        PILToTensor,
        Resize,
    )

    if not 0 < eval_crop <= 1:
        raise LabError(f"eval_crop {eval_crop}: give a share above 0, at most 1")
    interpolation = InterpolationMode(_find(name).interpolation)
    steps = [
        Resize(int(size / eval_crop), interpolation),
        CenterCrop(size),
        PILToTensor(),
    ]
    return Compose(steps)


def _find(name: str) -> Augmentation:
    if name not in AUGMENTATIONS:
        raise LabError(
            f"augmentation {name!r} is not one of photographs"
            f"{did_you_mean(name, AUGMENTATIONS)}: give one of "
            f"{', '.join(AUGMENTATIONS)}"
        )
    return AUGMENTATIONS[name]
