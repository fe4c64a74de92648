"""A labelled set of photographs: two sources, and what is done to their images.

Shape suffixes: K images, C channels, H height, W width.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from trainact.lab.data.image_set import ImageSet
from trainact.lab.data.images import SPLIT_SEED, stratified_subset
from trainact.lab.data.photographs.source import (
    Source,
    SubsetSource,
    UnreadableImageError,
)
from trainact.lab.data.photographs.transforms import (
    Transform,
    find_test_transform,
    find_train_transform,
)
from trainact.lab.errors import LabError

Corrupt = Literal["stop", "skip"]
# An image, and the seed of all that is drawn for it.
Key = tuple[int, int]
Sample = tuple[Tensor, int]

_NUM_MEASURED = 1000
_logger = logging.getLogger("trainact.lab")


@dataclass(frozen=True)
class Photographs(ImageSet):
    """Training and test images, read when they are wanted.

    Attributes:
        train: images to train on.
        test: images to test on.
        classes: names; a label is an index into them.
        image_size: height and width S that every image is brought to.
        augment: name in `trainact.lab.data.photographs.AUGMENTATIONS`.
        eval_crop: share of a resized test image's shorter side that is kept.
        corrupt: what to do about a training image that cannot be decoded.
    """

    train: Source
    test: Source
    classes: tuple[str, ...]
    image_size: int
    augment: str
    eval_crop: float
    corrupt: Corrupt = "stop"

    @property
    def num_train(self) -> int:
        """Number of training images."""
        return len(self.train)

    @property
    def num_test(self) -> int:
        """Number of test images."""
        return len(self.test)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image as a model sees it."""
        return 3, self.image_size, self.image_size

    def measured(self) -> Iterator[Tensor]:
        """Give at most 1,000 training images under the test transform.

        Yields:
            Bytes [1, 3, S, S], always the same.
        """
        for image_CHW in self._sample(_NUM_MEASURED):
            yield image_CHW[None]

    def identity(self) -> Iterator[bytes | memoryview]:
        """Give names, lengths and labels of files, or what the index of shards says.

        The images themselves are not read: those of ImageNet have 150 GB. An image that
        is changed and keeps its length goes unnoticed.

        Yields:
            Parts, each after its length.
        """
        for source in (self.train, self.test):
            for part in source.identity():
                yield len(part).to_bytes(8, "little")
                yield part

    def sample(self, count: int) -> Tensor:
        """Draw training images, the same ones every time, under the test transform.

        Args:
            count: how many, or all where there are fewer.

        Returns:
            Bytes [K, 3, S, S].
        """
        return torch.stack(list(self._sample(count)))

    def limited(self, limit: int | None) -> Photographs:
        """Keep a stratified part of the training images; the test images stay.

        Args:
            limit: number of training images, or None for all.

        Returns:
            The smaller set, or this one.
        """
        keep_N = stratified_subset(self.train.labels, limit)
        if len(keep_N) == self.num_train:
            return self
        return replace(self, train=SubsetSource(self.train, keep_N))

    def train_samples(self) -> TrainSamples:
        """What worker processes make of training images.

        Returns:
            A data set whose keys are (index, seed).
        """
        transform = find_train_transform(self.augment, self.image_size)
        return TrainSamples(self._train_reader(), transform)

    def test_samples(self) -> TestSamples:
        """What worker processes make of test images.

        Returns:
            A data set whose keys are indices.
        """
        return TestSamples(Reader(self.test, "stop"), self._test_transform())

    def _sample(self, count: int) -> Iterator[Tensor]:
        reader, transform = self._train_reader(), self._test_transform()
        generator = torch.Generator().manual_seed(SPLIT_SEED)
        for index in self.train.order(generator)[:count].tolist():
            image, _ = reader.read(index)
            yield transform(image)

    def _train_reader(self) -> Reader:
        return Reader(self.train, self.corrupt, ", or go on with --corrupt skip")

    def _test_transform(self) -> Transform:
        return find_test_transform(self.augment, self.image_size, self.eval_crop)


@dataclass
class Reader:
    """Reads images, also where one of them cannot be decoded.

    Attributes:
        source: of the images.
        corrupt: whether to stop there or to take the next one.
        remedy: what else can be done about it, for the message.
    """

    source: Source
    corrupt: Corrupt
    remedy: str = ""
    _reported: set[int] = field(default_factory=set[int])

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Read an image, or the next one that can be decoded.

        Args:
            index: of the image.

        Returns:
            The image and its label.

        Raises:
            UnreadableImageError: if it cannot be decoded and that is to stop the run.
            LabError: if none can be decoded.
        """
        for place in self._places(index):
            try:
                return self.source.read(place), int(self.source.labels[place])
            except UnreadableImageError as error:
                if self.corrupt == "stop":
                    raise UnreadableImageError(f"{error}{self.remedy}") from error
                self._report(place, error)
        raise LabError(
            f"none of the {len(self.source)} training images can be decoded, the last "
            f"of them being {self.source.name(index - 1)}"
        )

    def _places(self, index: int) -> Iterator[int]:
        yield from range(index, len(self.source))
        yield from range(index)

    def _report(self, place: int, error: UnreadableImageError) -> None:
        if place not in self._reported:
            self._reported.add(place)
            _logger.warning("%s; the next image takes its place", error)


class TrainSamples(Dataset[Sample]):
    """Training images by (index, seed), augmented by what the seed draws.

    The seed sets the default generators of torch, Python and NumPy, as a worker process
    has them for itself.

    Args:
        reader: of the images.
        transform: RGB image to bytes [3, S, S].
    """

    def __init__(self, reader: Reader, transform: Transform) -> None:
        self._reader = reader
        self._transform = transform

    def __len__(self) -> int:
        return len(self._reader.source)

    def __getitem__(self, key: Key) -> Sample:
        index, seed = key
        image, label = self._reader.read(index)
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - timm draws from it
        return self._transform(image), label


class TestSamples(Dataset[Sample]):
    """Test images by index.

    Args:
        reader: of the images.
        transform: RGB image to bytes [3, S, S].
    """

    __test__ = False  # for pytest, which takes it for a test

    def __init__(self, reader: Reader, transform: Transform) -> None:
        self._reader = reader
        self._transform = transform

    def __len__(self) -> int:
        return len(self._reader.source)

    def __getitem__(self, index: int) -> Sample:
        image, label = self._reader.read(index)
        return self._transform(image), label
