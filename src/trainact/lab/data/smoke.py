"""A few made-up images in the format of CIFAR, to try a recipe without a download.

``smoke:10`` and ``smoke:100`` have that many classes, the number of CIFAR's, so that
models are built as for the real images; nothing can be learnt of them.
"""

from __future__ import annotations

import torch

from trainact.lab.data.images import SPLIT_SEED, ImageData
from trainact.lab.errors import LabError

SMOKE = "smoke"  # what all of them begin with
PREFIX = f"{SMOKE}:"
PHOTOGRAPHS_PREFIX = f"{SMOKE}-photographs:"
SMOKE_BOXES = f"{SMOKE}-voc"
_NUM_CLASSES = {
    "cifar100": 100,
    "flowers102": 102,
    "stanford-cars": 196,
    "imagenet": 1000,
}
NUM_IMAGES = 4  # for training, and as many for testing
_SHAPE = (3, 32, 32)


def smoke_data(data: str, *, is_in_memory: bool = True) -> str:
    """Name the images that stand for a data set.

    Args:
        data: as on the command line.
        is_in_memory: whether they are of one size, and not photographs.

    Returns:
        Such as ``smoke:100`` for cifar100.
    """
    prefix = PREFIX if is_in_memory else PHOTOGRAPHS_PREFIX
    return f"{prefix}{_NUM_CLASSES.get(data, 10)}"


def load(spec: str) -> ImageData:
    """Draw the images, always the same.

    Args:
        spec: ``smoke:`` and the number of classes.

    Returns:
        Four training and four test images of 3 x 32 x 32.

    Raises:
        LabError: if the number of classes is none.
    """
    count = spec.removeprefix(PREFIX)
    if not count.isdecimal() or int(count) < 2:
        raise LabError(f"data {spec!r}: give smoke:10 or smoke:100")
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    shape = (2 * NUM_IMAGES, *_SHAPE)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, int(count), (2 * NUM_IMAGES,), generator=generator)
    return ImageData(
        images[:NUM_IMAGES],
        labels[:NUM_IMAGES],
        images[NUM_IMAGES:],
        labels[NUM_IMAGES:],
        tuple(str(label) for label in range(int(count))),
    )
