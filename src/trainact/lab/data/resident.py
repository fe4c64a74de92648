"""The whole training set on the device, augmented there, many batches at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from trainact.lab.config import RunConfig
from trainact.lab.data.augment import find_augmentation
from trainact.lab.data.batches import Batch, Batches
from trainact.lab.data.images import ImageData

# As many bytes are augmented at a time as 4,096 images of CIFAR have.
CHUNK_BYTES = 4096 * 3 * 32 * 32


class ResidentBatches(Batches):
    """Training batches on a device that holds all images.

    Args:
        config: of the run.
        data: whose training images are copied to the device once.
        device: where.
        chunk_bytes: images to augment together, at least one batch; decides about speed
            and memory, not about what comes out.
    """

    def __init__(
        self,
        config: RunConfig,
        data: ImageData,
        device: torch.device,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        super().__init__(config.seed, config, len(data.train_labels))
        self.images = data.train_images.to(device)
        self.labels = data.train_labels.to(device)
        self.augmentation = find_augmentation(config.augment)
        batch_bytes = self.batch_size * self.images[0].numel()
        self.chunk = self.batch_size * max(1, chunk_bytes // batch_bytes)

    def __iter__(self) -> Iterator[Batch]:
        order_N, generator = self.draw_order()
        draws_NK = self.augmentation.draw(len(order_N), generator)
        chunks = zip(order_N.split(self.chunk), draws_NK.split(self.chunk), strict=True)
        for chosen, draws in chunks:
            here = chosen.to(self.images.device)
            images = self.augmentation.apply(self.images[here], draws)
            labels = self.labels[here]
            yield from zip(
                images.split(self.batch_size),
                labels.split(self.batch_size),
                strict=True,
            )
