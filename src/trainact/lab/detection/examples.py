"""One image and the boxes of the objects in it.

A box is its edges, left, top, right and bottom, in pixels from the upper left corner of
the image: the pixel in that corner is the box (0, 0, 1, 1). Width is right - left, the
edges of a box in an image lie between 0 and the image's size, and the intersection over
union of two boxes is that of the pixels they hold.

Shape suffixes: N objects, H height, W width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from trainact.lab.errors import LabError, check_regular


@dataclass(frozen=True)
class Objects:
    """What there is in an image.

    Arrays of NumPy: unlike tensors, thousands of them can be given to other processes.

    Attributes:
        boxes: float32 [N, 4], edges.
        labels: int64 [N], indices into the names of the classes.
        difficult: bool [N]: objects that nobody needs to find. They are not trained on,
            and finding one is neither right nor wrong.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    difficult: NDArray[np.bool_]

    def easy(self) -> Objects:
        """Leave the difficult objects out.

        Returns:
            The others.
        """
        keep_N = ~self.difficult
        return Objects(self.boxes[keep_N], self.labels[keep_N], self.difficult[keep_N])

    def mirrored(self, width: int) -> Objects:
        """Mirror the boxes as an image is mirrored left to right.

        Args:
            width: of the image.

        Returns:
            The same objects elsewhere.
        """
        left_N, top_N, right_N, bottom_N = self.boxes.T
        boxes_N4 = np.stack((width - right_N, top_N, width - left_N, bottom_N), axis=1)
        return Objects(boxes_N4, self.labels, self.difficult)


@dataclass(frozen=True)
class Example:
    """An image, in memory or not read yet, and what there is in it.

    Attributes:
        image: file, or bytes [3, H, W].
        objects: what there is in it.
    """

    image: Path | NDArray[np.uint8]
    objects: Objects

    def read(self) -> Tensor:
        """Read the image.

        Returns:
            Bytes [3, H, W].
        """
        if isinstance(self.image, Path):
            return _decode(self.image)
        return torch.from_numpy(self.image.copy())

    def content(self) -> bytes:
        """Read what the image is told by, without decoding it.

        Returns:
            The bytes of the file or of the array.
        """
        if not isinstance(self.image, Path):
            return self.image.tobytes()
        with _readable(self.image):
            return self.image.read_bytes()


def image_size(file: Path) -> tuple[int, int]:
    """Look up an image's size without decoding it.

    Args:
        file: any format of Pillow.

    Returns:
        (width, height).
    """
    with _readable(file), Image.open(file) as image:
        return image.size


def _decode(file: Path) -> Tensor:
    with _readable(file), Image.open(file) as image:
        pixels_HW3 = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels_HW3).permute(2, 0, 1).contiguous()


@contextlib.contextmanager
def _readable(file: Path) -> Generator[None]:
    check_regular(file)
    try:
        yield
    except Exception as error:  # Pillow raises many types on a damaged file
        raise LabError(
            f"cannot read image {file} ({type(error).__name__}): repair it or put it "
            "back"
        ) from error
