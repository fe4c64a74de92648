"""What every source of training batches shares: the order, the seed and the epoch.

All that is drawn in an epoch comes from the run's seed and the number of the epoch
alone, so that a run resumed anywhere sees what an uninterrupted one saw, and all
methods of one seed see the same. A batch is the recipe's, however many processes share
it and in however many pieces each of them takes its part: see `Share`.

Shape suffixes: N images, B images of a batch, C channels, H height, W width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import torch
from torch import Tensor

from trainact.lab.config import Setting
from trainact.lab.data.mixing import arrange, parts
from trainact.lab.errors import LabError
from trainact.lab.seeds import derive_seed

Batch = tuple[Tensor, Tensor]
# With repeated augmentation an epoch has a multiple of so many images, as DeiT's has.
_REPEATED_MULTIPLE = 256
_FOR_MIXING = 2


@dataclass(frozen=True)
class Share:
    """Which part of every batch a process trains on, and in how many pieces.

    Attributes:
        rank: of the process.
        num_ranks: how many processes share a batch.
        pieces: micro-batches whose gradients are added up to a step, in each process.
    """

    rank: int = 0
    num_ranks: int = 1
    pieces: int = 1


WHOLE = Share()


@dataclass(frozen=True)
class Portion:
    """What a micro-batch is of its batch.

    Attributes:
        weight: what its mean loss is multiplied by, so that the mean over processes and
            pieces is the mean over the batch.
        mixed: (number of images, seed) of each run of images that are mixed among
            themselves; empty where nothing is mixed.
    """

    weight: float = 1.0
    mixed: tuple[tuple[int, int], ...] = ()


class Batches(ABC):
    """The training batches of one epoch after the other.

    Iterating gives the epoch that `set_epoch` named last, 0 at first. Lightning calls
    ``sampler.set_epoch`` before it takes an epoch's first batch but, when it resumes,
    after it has made the iterator. An iterator therefore draws nothing before its first
    batch is asked for.

    Args:
        seed: of the run.
        setting: whose size of batches is used.
        num_images: of the training set.
        share: of this process.

    Raises:
        LabError: if not one batch would remain, or not one image for every piece.
    """

    def __init__(
        self, seed: int, setting: Setting, num_images: int, share: Share = WHOLE
    ) -> None:
        self.seed = seed
        self.batch_size = setting.batch_size
        self.share = share
        self.epoch = 0
        self.num_images = num_images
        self._repeats = setting.repeats
        self._mixes = setting.mixes
        self._group = setting.mix_group or setting.batch_size
        self._start = self._taken = 0
        length = num_images
        if self._repeats > 1 and num_images >= _REPEATED_MULTIPLE:
            length -= num_images % _REPEATED_MULTIPLE
        if setting.drop_last:
            length -= length % self.batch_size
        self._length = length
        self._check()

    def _check(self) -> None:
        if self._length == 0:
            raise LabError(
                f"{self.num_images} training images are less than one batch of "
                f"{self.batch_size} and the last, smaller one is left out: give a "
                "smaller --batch-size"
            )
        smallest = self._length % self.batch_size or self.batch_size
        num_pieces = self.share.num_ranks * self.share.pieces
        if (smallest + self._mixes) // (1 + self._mixes) < num_pieces:
            pairs = "pair of images" if self._mixes else "image"
            raise LabError(
                f"an epoch's smallest batch has {smallest} images, which is less than "
                f"one {pairs} for each of {num_pieces} ({self.share.num_ranks} "
                f"processes, {self.share.pieces} micro-batches each): give fewer "
                "--devices, a larger --micro-batch or another --batch-size"
            )

    @abstractmethod
    def __iter__(self) -> Iterator[Batch]:
        """Yield byte images [B, C, H, W] and labels [B]."""

    def __len__(self) -> int:
        return self.num_steps * self.share.pieces

    @property
    def num_steps(self) -> int:
        """Steps of the optimizer in an epoch."""
        return -(-self._length // self.batch_size)

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

    def state_dict(self) -> dict[str, Any]:
        """Say how far the epoch is, for a checkpoint.

        Returns:
            The micro-batches taken, and how many make a step.
        """
        return {"taken": self._taken, "pieces": self.share.pieces}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin the next iteration where another one was.

        Args:
            state: of `state_dict`.

        Raises:
            LabError: if a step had another number of micro-batches then.
        """
        if state["pieces"] != self.share.pieces:
            raise LabError(
                f"the checkpoint lies inside an epoch with {state['pieces']} "
                f"micro-batches a step and now there are {self.share.pieces}: give "
                "--devices and --micro-batch as before"
            )
        self._start = state["taken"] % len(self)

    def counted(self, batches: Iterator[Batch], start: int) -> Iterator[Batch]:
        """Count the batches of an epoch while they are taken.

        Args:
            batches: from the one numbered ``start``.
            start: what `take_start` returned.

        Yields:
            The batches.
        """
        self._taken = start
        for batch in batches:
            self._taken += 1
            yield batch

    def take_start(self) -> int:
        """Where this iteration begins: at 0, or where a checkpoint was, once.

        Returns:
            A number of micro-batches.
        """
        start, self._start = self._start, 0
        return start

    def draw_order(self) -> tuple[Tensor, torch.Generator]:
        """Draw the epoch's order, the same whatever is drawn afterwards.

        Returns:
            Indices of the images [N], without those that are left out, and the
            generator for all else that the epoch draws.
        """
        generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch))
        order_N = self.shuffle(generator)
        if self._repeats > 1:
            order_N = order_N.repeat_interleave(self._repeats)
        return order_N[: self._length], generator

    def shuffle(self, generator: torch.Generator) -> Tensor:
        """Draw an order of all training images.

        Args:
            generator: of the epoch.

        Returns:
            Indices [N].
        """
        return torch.randperm(self.num_images, generator=generator)

    def positions(self, index: int) -> Tensor:
        """Say where in the epoch's order the images of a micro-batch are.

        Args:
            index: of the micro-batch in the epoch, counted from 0.

        Returns:
            Positions [B] in what `draw_order` returns.
        """
        step, first, last, size = self._range(index)
        begin = step * self.batch_size
        if not self._mixes:
            return torch.arange(begin + first, begin + last)
        return begin + _arranged(size, self._group)[first:last]

    def portion(self, index: int) -> Portion:
        """Say what a micro-batch is of its batch.

        Args:
            index: of the micro-batch in the epoch, counted from 0.

        Returns:
            Its weight and what is mixed.
        """
        step, first, last, size = self._range(index)
        pieces = self.share.num_ranks * self.share.pieces
        weight = (last - first) * pieces / size
        if not self._mixes:
            return Portion(weight)
        seed = (self.seed, self.epoch, step, _FOR_MIXING)
        mixed = (
            (count, derive_seed(*seed, group))
            for count, group in parts(first, last, size, self._group)
        )
        return Portion(weight, tuple(mixed))

    def _range(self, index: int) -> tuple[int, int, int, int]:
        """Step, first and last image in its batch, size of the batch."""
        step, piece = divmod(index, self.share.pieces)
        size = min(self.batch_size, self._length - step * self.batch_size)
        number = self.share.rank * self.share.pieces + piece
        num_pieces = self.share.num_ranks * self.share.pieces
        unit = 2 if self._mixes else 1  # what is mixed with each other stays together
        units = -(-size // unit)
        first, last = (
            min(size, unit * (part * units // num_pieces))
            for part in (number, number + 1)
        )
        return step, first, last, size


@lru_cache(maxsize=4)
def _arranged(size: int, group: int) -> Tensor:
    return arrange(size, group)


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
