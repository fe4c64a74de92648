"""What every source of training batches shares: the order, the seed and the epoch.

All that is drawn in an epoch comes from the run's seed and the number of the epoch
alone, so that a run resumed at an epoch sees what an uninterrupted one saw, and all
methods of one seed see the same.

Shape suffixes: N images, B images of a batch, C channels, H height, W width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor

from trainact.lab.config import Setting
from trainact.lab.errors import LabError
from trainact.lab.seeds import derive_seed

Batch = tuple[Tensor, Tensor]


class Batches(ABC):
    """The training batches of one epoch after the other.

    Iterating gives the epoch that `set_epoch` named last, 0 at first. Lightning calls
    ``sampler.set_epoch`` before it takes an epoch's first batch but, when it resumes,
    after it has made the iterator. An iterator therefore draws nothing before its first
    batch is asked for.

    Args:
        seed: of the run.
        setting: whose size of batches is used.
        num_images: in an epoch.

    Raises:
        LabError: if not one batch would remain.
    """

    def __init__(self, seed: int, setting: Setting, num_images: int) -> None:
        self.seed = seed
        self.batch_size = setting.batch_size
        self.drop_last = setting.drop_last
        self.num_images = num_images
        self.epoch = 0
        if len(self) == 0:
            raise LabError(
                f"{num_images} training images are less than one batch of "
                f"{self.batch_size} and the last, smaller one is left out: give a "
                "smaller --batch-size"
            )

    @abstractmethod
    def __iter__(self) -> Iterator[Batch]:
        """Yield byte images [B, C, H, W] and labels [B]."""

    def __len__(self) -> int:
        whole, rest = divmod(self.num_images, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    @property
    def sampler(self) -> Self:
        """Where Lightning looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration.

        Args:
            epoch: counted from 0.
        """
        self.epoch = epoch

    def draw_order(self) -> tuple[Tensor, torch.Generator]:
        """Draw the epoch's order, the same whatever is drawn afterwards.

        Returns:
            Indices of the images [N], without those that are left out, and the
            generator for all else that the epoch draws.
        """
        generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch))
        order_N = torch.randperm(self.num_images, generator=generator)
        return order_N[: len(self) * self.batch_size], generator


class PlainBatches:
    """All images in their order, every epoch alike: for testing.

    Args:
        images_NCHW: bytes, where the batches shall be.
        labels_N: on the same device.
        batch_size: images per batch; the last one may be smaller.
    """

    def __init__(self, images_NCHW: Tensor, labels_N: Tensor, batch_size: int) -> None:
        self.images = images_NCHW.split(batch_size)
        self.labels = labels_N.split(batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return zip(self.images, self.labels, strict=True)

    def __len__(self) -> int:
        return len(self.images)
