"""Photographs in memory: small ones of a published set, or a few made-up ones."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from trainact.lab.data.images import SPLIT_SEED
from trainact.lab.data.photographs.source import EncodedSource, Source
from trainact.lab.data.smoke import NUM_IMAGES, PHOTOGRAPHS_PREFIX
from trainact.lab.errors import LabError

# Heights and widths of made-up photographs, in pixels.
_LEAST, _MOST = 24, 64


class ArraySource(Source):
    """Decoded images of one size.

    Args:
        title: what messages call the set.
        images_NCHW: uint8 of 3 channels.
        labels_N: a label for each.
    """

    def __init__(
        self, title: str, images_NCHW: Tensor, labels_N: NDArray[np.int64]
    ) -> None:
        self._title = title
        self._images = images_NCHW
        self.labels = labels_N

    def read(self, index: int) -> Image.Image:
        """Make a PIL image."""
        return Image.fromarray(self._images[index].permute(1, 2, 0).numpy())

    def name(self, index: int) -> str:
        """Say the number of an image."""
        return f"image {index} of {self._title}"

    def identity(self) -> Iterator[bytes]:
        """List all pixels and labels."""
        yield self._images.contiguous().numpy().tobytes()
        yield self.labels.tobytes()


class MemorySource(EncodedSource):
    """Encoded images.

    Args:
        title: what messages call the set.
        files: encoded images.
        labels_N: a label for each.
    """

    def __init__(
        self, title: str, files: Sequence[bytes], labels_N: NDArray[np.int64]
    ) -> None:
        self._title = title
        self._files = tuple(files)
        self.labels = labels_N

    def encoded(self, index: int) -> bytes:
        """Give an encoded image."""
        return self._files[index]

    def name(self, index: int) -> str:
        """Say the number of an image."""
        return f"image {index} of {self._title}"

    def identity(self) -> Iterator[bytes]:
        """List all files and labels."""
        yield from self._files
        yield self.labels.tobytes()


def made_up(spec: str) -> tuple[Source, Source, tuple[str, ...]]:
    """Draw a few photographs of differing sizes, always the same.

    Args:
        spec: ``smoke-photographs:`` and the number of classes.

    Returns:
        Four images to train on and four to test on, and the classes.

    Raises:
        LabError: if the number of classes is none.
    """
    count = spec.removeprefix(PHOTOGRAPHS_PREFIX)
    if not count.isdecimal() or int(count) < 2:
        raise LabError(
            f"data {spec!r}: give {PHOTOGRAPHS_PREFIX} and a number of classes, such "
            f"as {PHOTOGRAPHS_PREFIX}1000"
        )
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    labels = torch.randint(0, int(count), (2 * NUM_IMAGES,), generator=generator)
    files = [_made_up_file(generator) for _ in labels]
    train, test = (
        MemorySource(spec, files[part], labels[part].numpy())
        for part in (slice(NUM_IMAGES), slice(NUM_IMAGES, None))
    )
    return train, test, tuple(str(label) for label in range(int(count)))


def _made_up_file(generator: torch.Generator) -> bytes:
    height, width = torch.randint(_LEAST, _MOST, (2,), generator=generator).tolist()
    shape = (height, width, 3)
    pixels_HWC = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels_HWC.numpy()).save(file, format="JPEG")
    return file.getvalue()
