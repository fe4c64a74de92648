"""The whole training set on the device, augmented there, many batches at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from trainact.lab.config import RunConfig
from trainact.lab.data.augment import find_augmentation
from trainact.lab.data.batches import WHOLE, Batch, Batches, Share
from trainact.lab.data.images import ImageData

# As many bytes are augmented at a time as 4,096 images of CIFAR have.
CHUNK_BYTES = 4096 * 3 * 32 * 32


class ResidentBatches(Batches):
    """Training batches on a device that holds all images.

    Args:
        config: of the run.
        data: whose training images are copied to the device once.
        device: where.
        share: of this process.
        chunk_bytes: images to augment together, at least one batch; decides about speed
            and memory, not about what comes out.
    """

    def __init__(
        self,
        config: RunConfig,
        data: ImageData,
        device: torch.device,
        share: Share = WHOLE,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        super().__init__(config.seed, config, data.num_train, share)
        self.images = data.train_images.to(device)
        self.labels = data.train_labels.to(device)
        self.augmentation = find_augmentation(config.augment)
        batch_bytes = self.batch_size * self.images[0].numel()
        self.chunk = share.pieces * max(1, chunk_bytes // batch_bytes)

    def __iter__(self) -> Iterator[Batch]:
        start = self.take_start()
        yield from self.counted(self._batches(start), start)

    def _batches(self, start: int) -> Iterator[Batch]:
        order_N, generator = self.draw_order()
        draws_NK = self.augmentation.draw(len(order_N), generator)
        for first in range(start, len(self), self.chunk):
            last = min(len(self), first + self.chunk)
            chunk = [self.positions(index) for index in range(first, last)]
            yield from self._together(chunk, order_N, draws_NK)

    def _together(
        self, chunk: list[Tensor], order_N: Tensor, draws_NK: Tensor
    ) -> Iterator[Batch]:
        positions = torch.cat(chunk)
        sizes = [len(part) for part in chunk]
        here = order_N[positions].to(self.images.device)
        images = self.augmentation.apply(self.images[here], draws_NK[positions])
        yield from zip(images.split(sizes), self.labels[here].split(sizes), strict=True)
