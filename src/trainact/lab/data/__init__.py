"""Image sets by name: ``digits``, torchvision's, or any folder of images."""

from __future__ import annotations

from pathlib import Path

from trainact.lab.data import smoke
from trainact.lab.data.images import ImageData
from trainact.lab.data.torchvision_sets import SETS
from trainact.lab.errors import LabError, did_you_mean

__all__ = ["FOLDER_PREFIX", "NAMES", "ImageData", "load_data"]

FOLDER_PREFIX = "imagefolder:"
NAMES = ("digits", *SETS, f"{FOLDER_PREFIX}PATH")


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
