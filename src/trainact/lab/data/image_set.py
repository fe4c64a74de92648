"""What image sets have in common, in memory or not.

Shape suffixes: N images, C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from trainact.lab.records import DataSummary


class ImageSet(ABC):
    """Training and test images of some classes.

    Attributes:
        classes: names; a label is an index into them.
    """

    classes: tuple[str, ...]

    @property
    @abstractmethod
    def num_train(self) -> int:
        """Number of training images."""

    @property
    @abstractmethod
    def num_test(self) -> int:
        """Number of test images."""

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what `sample` returns."""

    @abstractmethod
    def sample(self, count: int) -> Tensor:
        """Draw training images, the same ones every time.

        Args:
            count: how many, or all where there are fewer.

        Returns:
            Bytes [count, C, H, W].
        """

    @abstractmethod
    def measured(self) -> Iterator[Tensor]:
        """Give the training images that `statistics` are of.

        Yields:
            Bytes [N, C, H, W]; N, H and W may differ.
        """

    @abstractmethod
    def identity(self) -> Iterator[bytes | memoryview]:
        """Say what the hash of the `fingerprint` is made of.

        Yields:
            Parts.
        """

    @property
    def num_classes(self) -> int:
        """Number of classes, without a background."""
        return len(self.classes)

    @cached_property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and std of `measured` images per channel, in bytes, float32, [C] each.

        A constant channel has std 1, so that normalising it gives zeros.
        """
        count = 0
        total_C = torch.zeros(self.image_shape[0], dtype=torch.float64)
        squares_C = torch.zeros_like(total_C)
        for block_NCHW in self.measured():
            values_NCHW = block_NCHW.double()
            total_C += values_NCHW.sum((0, 2, 3))
            squares_C += values_NCHW.square().sum((0, 2, 3))
            count += block_NCHW[:, 0].numel()
        mean_C = total_C / count
        std_C = (squares_C / count - mean_C.square()).clamp_min(0).sqrt()
        std_C[std_C < 1e-6] = 1.0
        return mean_C.float(), std_C.float()

    @cached_property
    def fingerprint(self) -> DataSummary:
        """What identifies the data in a record: counts, classes, shape and a hash."""
        digest = hashlib.blake2b(digest_size=16)
        for part in self.identity():
            digest.update(part)
        return {
            "train": self.num_train,
            "test": self.num_test,
            "shape": list(self.image_shape),
            "classes": list(self.classes),
            "hash": digest.hexdigest(),
        }
