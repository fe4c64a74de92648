"""Training images read and augmented one by one, in worker processes or in this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trainact.lab.config import RunConfig
from trainact.lab.data import AnyData
from trainact.lab.data.augment import find_augmentation
from trainact.lab.data.batches import WHOLE, Batch, Batches, Share
from trainact.lab.data.images import ImageData
from trainact.lab.data.photographs import Photographs
from trainact.lab.data.signals import leave_to_parent
from trainact.lab.ranks import own_cores

# Of an epoch's images in memory few are decoded: more processes would wait.
MAX_WORKERS = 4
MAX_READERS = 16
# An image and the seed of all that is drawn for it in this epoch.
Key = tuple[int, int]


class WorkersBatches(Batches):
    """Training batches in host memory, prepared by processes that live on.

    Args:
        config: of the run.
        data: whose training images are used.
        device: for which batches are made; a GPU reads them from pinned memory.
        share: of this process.
        num_workers: processes, 0 to read in this one; by default one for each core
            that is there for this process, at most 4, or 16 that read photographs.
    """

    def __init__(
        self,
        config: RunConfig,
        data: ImageData | Photographs,
        device: torch.device,
        share: Share = WHOLE,
        num_workers: int | None = None,
    ) -> None:
        super().__init__(config.seed, config, data.num_train, share)
        self._data = data
        self._samples = _samples(data, config)
        self._keys = _Keys()
        self._num_workers = _chosen(num_workers, data)
        self._pin_memory = device.type == "cuda"
        # Lightning sets a loader's attribute of this name to None when a fit ends. That
        # must be what ends the processes: the garbage collector, which takes the queues
        # away first, waits five seconds for each.
        self._iterator: DataLoader[Any] | None = None

    def __iter__(self) -> Iterator[Batch]:
        start = self.take_start()
        order_N, generator = self.draw_order()
        seeds_N = torch.randint(2**32, order_N.shape, generator=generator)
        # The workers keep the data set of the first epoch, so what changes goes with
        # the index.
        places = [self.positions(index) for index in range(start, len(self))]
        self._keys.epoch = [(order_N[where], seeds_N[where]) for where in places]
        if self._iterator is None:
            self._iterator = self._make_loader()
        yield from self.counted(_read(self._iterator), start)

    def shuffle(self, generator: torch.Generator) -> Tensor:
        """Draw an order that the source of the images is quick at.

        Args:
            generator: of the epoch.

        Returns:
            Indices [N].
        """
        if isinstance(self._data, Photographs):
            return self._data.train.order(generator)
        return super().shuffle(generator)

    def _make_loader(self) -> DataLoader[Any]:
        return DataLoader(
            self._samples,  # pyright: ignore[reportArgumentType]
            batch_sampler=self._keys,  # pyright: ignore[reportArgumentType]
            num_workers=self._num_workers,
            persistent_workers=self._num_workers > 0,
            pin_memory=self._pin_memory,
            worker_init_fn=leave_to_parent,
            # The loader draws a seed that nobody uses: not from the model's generator.
            generator=torch.Generator(),
        )


class _Keys:
    """The keys of an epoch's micro-batches, as lists one after the other."""

    def __init__(self) -> None:
        self.epoch: list[tuple[Tensor, Tensor]] = []  # images and seeds

    def __len__(self) -> int:
        return len(self.epoch)

    def __iter__(self) -> Iterator[list[Key]]:
        for images, seeds in self.epoch:
            yield list(zip(images.tolist(), seeds.tolist(), strict=True))


class TestBatches:
    """Photographs to test on, every epoch alike, read by processes of their own.

    Args:
        data: whose test images are used.
        device: for which batches are made.
        batch_size: images per batch; the last one may be smaller.
        share: of this process: every so many images, none twice.
        num_workers: as for `WorkersBatches`.
    """

    __test__ = False  # for pytest, which takes it for a test

    def __init__(
        self,
        data: Photographs,
        device: torch.device,
        batch_size: int,
        share: Share = WHOLE,
        num_workers: int | None = None,
    ) -> None:
        self._loader: DataLoader[Any] = DataLoader(
            data.test_samples(),
            batch_size,
            sampler=range(share.rank, data.num_test, share.num_ranks),
            num_workers=_chosen(num_workers, data),
            pin_memory=device.type == "cuda",
            worker_init_fn=leave_to_parent,
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator[Batch]:
        return _read(self._loader)

    def __len__(self) -> int:
        return len(self._loader)


def _read(loader: DataLoader[Any]) -> Iterator[Batch]:
    """Read an epoch; where this process does that itself, its generators stay."""
    from lightning.pytorch.utilities.seed import isolate_rng

    batches = iter(loader)
    while True:
        with isolate_rng(include_cuda=False):
            batch = next(batches, None)
        if batch is None:
            return
        images_BCHW, labels_B = batch  # the loader makes lists
        yield images_BCHW, labels_B


class _Samples(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, data: ImageData, transform: Callable[[Tensor], Tensor]) -> None:
        self.images = data.train_images
        self.labels = data.train_labels
        self.transform = transform

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        index, seed = key
        # torchvision draws from this generator.
        torch.default_generator.manual_seed(seed)
        return self.transform(self.images[index]), self.labels[index]


def _samples(data: ImageData | Photographs, config: RunConfig) -> Dataset[object]:
    if isinstance(data, Photographs):
        return data.train_samples()
    _, height, width = data.image_shape
    transform = find_augmentation(config.augment).transform(height, width)
    return _Samples(data, transform)


def _chosen(num_workers: int | None, data: AnyData) -> int:
    return default_workers(data) if num_workers is None else num_workers


def default_workers(data: AnyData) -> int:
    """Choose how many processes prepare images for one that trains.

    Args:
        data: what they prepare.

    Returns:
        `own_cores`, at most 4, or 16 for images that are not in memory.
    """
    most = MAX_WORKERS if isinstance(data, ImageData) else MAX_READERS
    return min(most, own_cores())
