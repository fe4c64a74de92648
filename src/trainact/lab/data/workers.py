"""Training images augmented one by one in worker processes, by torchvision."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trainact.lab.config import RunConfig
from trainact.lab.data.augment import find_augmentation
from trainact.lab.data.batches import Batch, Batches
from trainact.lab.data.images import ImageData

MAX_WORKERS = 4
# An image and the seed of all that is drawn for it in this epoch.
Key = tuple[int, int]


class WorkersBatches(Batches):
    """Training batches in host memory, prepared by processes that live on.

    Args:
        config: of the run.
        data: whose training images are used.
        device: for which batches are made; a GPU reads them from pinned memory.
        num_workers: processes; by default one for each core, at most four.
    """

    def __init__(
        self,
        config: RunConfig,
        data: ImageData,
        device: torch.device,
        num_workers: int | None = None,
    ) -> None:
        super().__init__(config.seed, config, len(data.train_labels))
        _, height, width = data.image_shape
        transform = find_augmentation(config.augment).transform(height, width)
        self._samples = _Samples(data, transform)
        self._keys: list[Key] = []
        self._num_workers = num_workers or min(MAX_WORKERS, _num_cores())
        self._pin_memory = device.type == "cuda"
        # Lightning sets a loader's attribute of this name to None when a fit ends. That
        # must be what ends the processes: the garbage collector, which takes the queues
        # away first, waits five seconds for each.
        self._iterator: DataLoader[Batch] | None = None

    def __iter__(self) -> Iterator[Batch]:
        order_N, generator = self.draw_order()
        seeds_N = torch.randint(2**32, order_N.shape, generator=generator)
        # The workers keep the data set of the first epoch, so what changes goes with
        # the index.
        self._keys[:] = zip(order_N.tolist(), seeds_N.tolist(), strict=True)
        if self._iterator is None:
            self._iterator = self._make_loader()
        for batch in self._iterator:
            images_BCHW, labels_B = batch  # the loader makes lists
            yield images_BCHW, labels_B

    def _make_loader(self) -> DataLoader[Batch]:
        return DataLoader(
            self._samples,  # pyright: ignore[reportArgumentType]
            self.batch_size,
            sampler=self._keys,  # pyright: ignore[reportArgumentType]
            drop_last=self.drop_last,
            num_workers=self._num_workers,
            persistent_workers=True,
            pin_memory=self._pin_memory,
            # The loader draws a seed that nobody uses: not from the model's generator.
            generator=torch.Generator(),
        )


class _Samples(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, data: ImageData, transform: Callable[[Tensor], Tensor]) -> None:
        self.images = data.train_images
        self.labels = data.train_labels
        self.transform = transform

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        index, seed = key
        # torchvision draws from this generator, which is the worker process's own.
        torch.default_generator.manual_seed(seed)
        return self.transform(self.images[index]), self.labels[index]


def _num_cores() -> int:
    """Cores this process may use, as DataLoader counts them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
