"""A few made-up images in the format of CIFAR, to try a recipe without a download.

``smoke:10`` and ``smoke:100`` have that many classes, the number of CIFAR's, so that
models are built as for the real images; nothing can be learnt of them.
"""

from __future__ import annotations

import torch

from trainact.lab.data.images import SPLIT_SEED, ImageData
from trainact.lab.errors import LabError

PREFIX = "smoke:"
NUM_IMAGES = 4  # for training, and as many for testing
_SHAPE = (3, 32, 32)


def smoke_data(data: str) -> str:
    """Name the images that stand for a data set.

    Args:
        data: as on the command line.

    Returns:
        ``smoke:100`` for cifar100, else ``smoke:10``.
    """
    return f"{PREFIX}{100 if data == 'cifar100' else 10}"


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
