"""What every source of photographs can do: random access, names and an order."""

from __future__ import annotations

import io
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from trainact.lab.data.imagefolder import DEEP_MODES
from trainact.lab.errors import LabError


class UnreadableImageError(LabError):
    """An image that is there and is none, or none that can be used."""


class Source(ABC):
    """Labelled images, each of its own size.

    A copy goes to every worker process: what there is for each image is held in arrays,
    whose memory a process that only reads them shares with its parent.

    Attributes:
        labels: int64 [N].
    """

    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read(self, index: int) -> Image.Image:
        """Decode an image.

        Args:
            index: from 0 to N - 1.

        Returns:
            An RGB image.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """Name an image for a message.

        Args:
            index: from 0 to N - 1.

        Returns:
            Where it is.
        """

    @abstractmethod
    def identity(self) -> Iterator[bytes]:
        """List what identifies the images and labels, wherever they are kept.

        Returns:
            Parts to be hashed.
        """

    def order(self, generator: torch.Generator) -> Tensor:
        """Draw an order of all images, one that they can be read in quickly.

        Args:
            generator: all that decides about the order.

        Returns:
            Indices int64 [N], each once.
        """
        return torch.randperm(len(self), generator=generator)


class EncodedSource(Source):
    """A source of encoded images, such as JPEG."""

    @abstractmethod
    def encoded(self, index: int) -> bytes:
        """Read an image without decoding it.

        Args:
            index: from 0 to N - 1.

        Returns:
            The bytes of its file.
        """

    def read(self, index: int) -> Image.Image:
        """Decode an image."""
        return decode(self.encoded(index), lambda: self.name(index))


class SubsetSource(Source):
    """Some images of another source.

    Args:
        source: the other one.
        keep_N: which of its images, in the order that they shall have.
    """

    def __init__(self, source: Source, keep_N: NDArray[np.int64]) -> None:
        self._source = source
        self._keep = keep_N
        self.labels = source.labels[keep_N]

    def read(self, index: int) -> Image.Image:
        """Decode an image."""
        return self._source.read(int(self._keep[index]))

    def name(self, index: int) -> str:
        """Name an image as the other source does."""
        return self._source.name(int(self._keep[index]))

    def identity(self) -> Iterator[bytes]:
        """List what identifies the other source, and which images of it there are."""
        yield from self._source.identity()
        yield self._keep.tobytes()

    def order(self, generator: torch.Generator) -> Tensor:
        """Draw an order of the other source and leave out what is not here."""
        position_N = torch.full((len(self._source),), -1)
        position_N[torch.from_numpy(self._keep)] = torch.arange(len(self))
        ordered_N = position_N[self._source.order(generator)]
        return ordered_N[ordered_N >= 0]


def decode(data: bytes, name: Callable[[], str]) -> Image.Image:
    """Decode an image as torchvision's ImageFolder does, but transparency.

    Args:
        data: of a file in a format that Pillow knows.
        name: gives what messages call it.

    Returns:
        An RGB image; of a transparent one the colours, whatever they are laid upon.

    Raises:
        UnreadableImageError: if it cannot be decoded or has more than 8 bits per
            channel.
    """
    try:
        with warnings.catch_warnings():
            # Pillow's notices of odd metadata, which nobody asked for.
            warnings.simplefilter("ignore", UserWarning)
            with Image.open(io.BytesIO(data)) as image:
                image.load()
    except Exception as error:  # Pillow raises many types on a damaged file
        raise UnreadableImageError(
            f"cannot read image {name()} ({type(error).__name__}): repair or remove it"
        ) from error
    if image.mode in DEEP_MODES:
        raise UnreadableImageError(
            f"image {name()} has more than 8 bits per channel ({image.mode}): convert "
            "it to 8 bits"
        )
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")
