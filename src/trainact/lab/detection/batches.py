"""Batches of images with boxes, read and mirrored in worker processes.

A batch is a list of byte images [3, H, W] of any size and a list of targets, one for
each: ``boxes`` float32 [N, 4], edges; ``labels`` int64 [N], counted from 0;
``difficult`` bool [N]; and ``image``, its number in the data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trainact.lab.config import RunConfig
from trainact.lab.data.batches import WHOLE, Batches, Share
from trainact.lab.data.signals import leave_to_parent
from trainact.lab.data.workers import default_workers
from trainact.lab.detection.data import DetectionData
from trainact.lab.detection.examples import Example
from trainact.lab.errors import LabError, did_you_mean

Target = dict[str, Tensor]
DetectionBatch = tuple[list[Tensor], list[Target]]
# Name of an augmentation → the share of images that are mirrored.
MIRRORED = {"none": 0.0, "flip": 0.5}
# Number of an image, and whether it is mirrored.
_Key = tuple[int, bool]


class DetectionBatches(Batches):
    """Training batches, without difficult objects.

    Which images are mirrored depends on the seed, the epoch and the place in its order
    alone, like the order itself.

    Args:
        config: of the run.
        data: whose training images are used.
        device: for which batches are made; a GPU reads them from pinned memory.
        share: of this process.
        num_workers: processes, 0 to read in this one; by default none for images in
            memory, else as `default_workers` chooses.

    Raises:
        LabError: if the augmentation is not for images with boxes.
    """

    def __init__(
        self,
        config: RunConfig,
        data: DetectionData,
        device: torch.device,
        share: Share = WHOLE,
        num_workers: int | None = None,
    ) -> None:
        super().__init__(config.seed, config, data.num_train, share)
        if config.augment not in MIRRORED:
            raise LabError(
                f"augmentation {config.augment!r} is not for images with boxes"
                f"{did_you_mean(config.augment, MIRRORED)}: give one of "
                f"{', '.join(MIRRORED)}"
            )
        self._mirrored = MIRRORED[config.augment]
        self._loader = _Loader(data, device, num_workers, is_training=True)

    def __iter__(self) -> Iterator[Any]:
        start = self.take_start()
        order_N, generator = self.draw_order()
        mirrored_N = torch.rand(len(order_N), generator=generator) < self._mirrored
        keys = [
            list(zip(order_N[own].tolist(), mirrored_N[own].tolist(), strict=True))
            for own in map(self.positions, range(start, len(self)))
        ]
        batches: Any = self._loader.batches(keys)
        yield from self.counted(batches, start)


class DetectionTestBatches:
    """All test images in their order, every epoch alike, with difficult objects.

    Args:
        data: whose test images are used.
        device: for which batches are made.
        batch_size: images per batch; the last one may be smaller.
        share: of this process: every so many images, none twice.
        num_workers: as for `DetectionBatches`.
    """

    def __init__(
        self,
        data: DetectionData,
        device: torch.device,
        batch_size: int,
        share: Share = WHOLE,
        num_workers: int | None = None,
    ) -> None:
        own = range(share.rank, data.num_test, share.num_ranks)
        keys = [(index, False) for index in own]
        starts = range(0, len(keys), batch_size)
        self._keys = [keys[start : start + batch_size] for start in starts]
        self._loader = _Loader(data, device, num_workers, is_training=False)

    def __iter__(self) -> Iterator[DetectionBatch]:
        return self._loader.batches(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


class _Loader:
    """Makes the batches of one epoch after the other, with processes for each."""

    def __init__(
        self,
        data: DetectionData,
        device: torch.device,
        num_workers: int | None,
        *,
        is_training: bool,
    ) -> None:
        if num_workers is None:
            num_workers = default_workers(data) if data.is_on_disk else 0
        examples = data.train if is_training else data.test
        self._samples = _Samples(examples, is_training=is_training)
        self._num_workers = num_workers
        self._pin_memory = device.type == "cuda"

    def batches(self, keys: list[list[_Key]]) -> Iterator[DetectionBatch]:
        any_keys: Any = keys
        loader: DataLoader[Any] = DataLoader(
            self._samples,
            batch_sampler=any_keys,
            num_workers=self._num_workers,
            collate_fn=_collate,
            pin_memory=self._pin_memory,
            worker_init_fn=leave_to_parent,
            # The loader draws a seed that nobody uses: not from the model's generator.
            generator=torch.Generator(),
        )
        for batch in loader:
            images, targets = batch  # pinning makes lists
            yield images, targets


class _Samples(Dataset[Any]):
    """Images and targets."""

    def __init__(self, examples: Sequence[Example], *, is_training: bool) -> None:
        self._examples = examples
        self._is_training = is_training

    def __getitem__(self, key: _Key) -> tuple[Tensor, Target]:
        index, is_mirrored = key
        example = self._examples[index]
        objects = example.objects.easy() if self._is_training else example.objects
        image_CHW = example.read()
        if is_mirrored:
            image_CHW = image_CHW.flip(2)
            objects = objects.mirrored(image_CHW.shape[2])
        return image_CHW, {
            "boxes": torch.from_numpy(objects.boxes),
            "labels": torch.from_numpy(objects.labels),
            "difficult": torch.from_numpy(objects.difficult),
            "image": torch.tensor(index),
        }


def _collate(samples: list[tuple[Tensor, Target]]) -> DetectionBatch:
    return [image for image, _ in samples], [target for _, target in samples]
