"""Image sets by name: ``digits``, torchvision's, or any folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from trainact.lab.config import Setting
from trainact.lab.data import smoke
from trainact.lab.data.images import ImageData
from trainact.lab.data.photographs import (
    Photographs,
    is_photographic,
    load_photographs,
)
from trainact.lab.data.torchvision_sets import SETS
from trainact.lab.errors import LabError, did_you_mean

if TYPE_CHECKING:
    from trainact.lab.detection.data import DetectionData

__all__ = [
    "FOLDER_PREFIX",
    "NAMES",
    "AnyData",
    "ImageData",
    "is_in_memory",
    "load_data",
    "load_for",
]

AnyData: TypeAlias = "ImageData | Photographs | DetectionData"
DEFAULT_SIZE = 224
FOLDER_PREFIX = "imagefolder:"
NAMES = ("digits", *SETS, f"{FOLDER_PREFIX}PATH")


def load_for(
    setting: Setting, data_dir: Path, corrupt: Literal["stop", "skip"] = "stop"
) -> AnyData:
    """Load the data of a run, or get ready to read it image by image.

    Args:
        setting: of the run.
        data_dir: where torchvision's downloads go.
        corrupt: what to do about a training photograph that cannot be decoded.

    Returns:
        Images in memory, photographs on a disk or in an object store, or images with
        boxes: whatever the setting's task and augmentation are for.
    """
    spec, limit = setting.data, setting.limit
    if setting.task == "detection":
        from trainact.lab.detection.data import load_detection

        return load_detection(spec, data_dir, setting.image_size, limit)
    if is_in_memory(setting):
        return load_data(spec, data_dir, setting.image_size, limit)
    return load_photographs(
        spec,
        data_dir,
        setting.image_size or DEFAULT_SIZE,
        setting.augment,
        setting.eval_crop,
        limit,
        corrupt,
    )


def is_in_memory(setting: Setting) -> bool:
    """Whether a setting's images are held in memory, all of one size.

    Args:
        setting: of a run.

    Returns:
        False for photographs, which are read one by one, and for detection.
    """
    return setting.task == "classification" and not is_photographic(setting.augment)


def load_data(
    spec: str, data_dir: Path, image_size: int | None = None, limit: int | None = None
) -> ImageData:
    """Load an image set into memory.

    Args:
        spec: ``digits``, ``fashion-mnist``, ``cifar10``, ``cifar100``,
            ``imagefolder:PATH``, or ``smoke:10`` for a few made-up images.
        data_dir: where torchvision's downloads go.
        image_size: for a folder of images: height and width to bring them to.
        limit: number of training images, chosen with every class keeping its share.

    Returns:
        The images in memory.

    Raises:
        LabError: if the set is not known or cannot be loaded.
    """
    if spec.startswith(FOLDER_PREFIX):
        from trainact.lab.data import imagefolder

        root = Path(spec.removeprefix(FOLDER_PREFIX)).expanduser()
        return imagefolder.load(root, image_size, limit)
    if image_size is not None:
        raise LabError(
            f"--image-size {image_size} is for imagefolder:PATH: {spec} has a size of "
            "its own, so leave it out"
        )
    return _load_named(spec, data_dir).limited(limit)


def _load_named(spec: str, data_dir: Path) -> ImageData:
    if spec == "digits":
        from trainact.lab.data import digits

        return digits.load()
    if spec.startswith(smoke.PREFIX):
        return smoke.load(spec)
    if spec in SETS:
        from trainact.lab.data import torchvision_sets

        return torchvision_sets.load(spec, data_dir)
    raise LabError(
        f"data {spec!r} is not known{did_you_mean(spec, NAMES)}: give one of "
        f"{', '.join(NAMES)}"
    )
