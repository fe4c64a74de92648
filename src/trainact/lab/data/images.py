"""A labelled image set in memory, and the few operations every source shares.

Shape suffixes: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainact.lab.data.image_set import ImageSet
from trainact.lab.errors import LabError

# Everything that is drawn about the data (splits, subsets) comes from this seed, so
# that all runs of all seeds see the same images.
SPLIT_SEED = 0
_BLOCK = 4096
HELD_OUT = 0.1


@dataclass(frozen=True)
class ImageData(ImageSet):
    """Train and test images in memory, as bytes.

    Attributes:
        train_images: uint8 [N, C, H, W].
        train_labels: int64 [N].
        test_images: uint8, the same C, H and W.
        test_labels: int64 [N].
        classes: names; a label is an index into them.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]

    @property
    def num_train(self) -> int:
        """Number of training images."""
        return len(self.train_labels)

    @property
    def num_test(self) -> int:
        """Number of test images."""
        return len(self.test_labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    def measured(self) -> Iterator[Tensor]:
        """Give all training images.

        Yields:
            Bytes [N, C, H, W].
        """
        yield from self.train_images.split(_BLOCK)

    def identity(self) -> Iterator[bytes | memoryview]:
        """Give all images and labels.

        Yields:
            Shapes and contents.
        """
        for part in (
            self.train_images,
            self.train_labels,
            self.test_images,
            self.test_labels,
        ):
            yield repr(tuple(part.shape)).encode()
            yield part.contiguous().numpy().data

    def sample(self, count: int) -> Tensor:
        """Draw training images, the same ones every time.

        Args:
            count: how many, or all where there are fewer.

        Returns:
            Bytes [count, C, H, W].
        """
        generator = torch.Generator().manual_seed(SPLIT_SEED)
        order_N = torch.randperm(len(self.train_labels), generator=generator)
        return self.train_images[order_N[:count]]

    def limited(self, limit: int | None) -> ImageData:
        """Keep a stratified part of the training images; the test images stay.

        Args:
            limit: number of training images, or None for all.

        Returns:
            The smaller set.
        """
        keep_N = stratified_subset(self.train_labels.numpy(), limit)
        return ImageData(
            self.train_images[keep_N],
            self.train_labels[keep_N],
            self.test_images,
            self.test_labels,
            self.classes,
        )

    def held_out(self) -> ImageData:
        """Test on a tenth of each class's training images, the same ones every time.

        Returns:
            The training images in two disjoint parts; the test images are left out.

        Raises:
            LabError: if a class has fewer than two training images.
        """
        labels_N = self.train_labels.numpy()
        if (np.unique(labels_N, return_counts=True)[1] < 2).any():
            raise LabError(
                "a class has one training image, so none can be held out: take more"
            )
        train_N, held_N = stratified_split(labels_N, HELD_OUT)
        return ImageData(
            self.train_images[train_N],
            self.train_labels[train_N],
            self.train_images[held_N],
            self.train_labels[held_N],
            self.classes,
        )


def check_labels(
    where: str, classes: Sequence[str], **labels: NDArray[np.int64]
) -> None:
    """Check that there is something to train on and to test on.

    Args:
        where: the images are, for the message.
        classes: names.
        **labels: of ``training`` and ``test`` images, int64 [N] each.

    Raises:
        LabError: if there are no images of a kind, or a label is no class.
    """
    for title, labels_N in labels.items():
        if not len(labels_N):
            raise LabError(f"{where}: there are no {title} images")
        if labels_N.min() < 0 or labels_N.max() >= len(classes):
            raise LabError(
                f"{where}: the labels of the {title} images go from {labels_N.min()} "
                f"to {labels_N.max()} and there are {len(classes)} classes, counted "
                "from 0"
            )
    if len(classes) < 2:
        raise LabError(f"{where}: there is one class only, and at least two are needed")


def shares(counts: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Divide a total among classes in proportion, by largest remainder.

    Args:
        counts: size of each class.
        total: what to hand out; at most the sum of the counts.

    Returns:
        A number per class that adds up to the total, none above its count.
    """
    exact = counts * (total / counts.sum())
    share = np.floor(exact + 1e-9).astype(np.int64)
    by_remainder = np.argsort(share - exact, kind="stable")
    share[by_remainder[: total - share.sum()]] += 1
    return np.minimum(share, counts)


def stratified_subset(
    labels_N: NDArray[np.int64], limit: int | None
) -> NDArray[np.int64]:
    """Choose images so that every class keeps its share.

    Args:
        labels_N: a label per image.
        limit: how many to choose, or None for all.

    Returns:
        Sorted indices.

    Raises:
        LabError: if the limit is smaller than the number of classes.
    """
    if limit is None or limit >= len(labels_N):
        return np.arange(len(labels_N))
    classes, counts = np.unique(labels_N, return_counts=True)
    if limit < len(classes):
        raise LabError(
            f"--limit {limit} is less than one image for each of the {len(classes)} "
            f"classes: give at least {len(classes)}"
        )
    generator = np.random.default_rng(SPLIT_SEED)
    chosen = [
        generator.permutation(np.flatnonzero(labels_N == label))[:share]
        for label, share in zip(classes, shares(counts, limit), strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def stratified_split(
    labels_N: NDArray[np.int64], test_fraction: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split into training and test images, the same way every time.

    Args:
        labels_N: a label per image.
        test_fraction: share of each class that becomes test images (at least one).

    Returns:
        Sorted indices of the training and of the test images.
    """
    generator = np.random.default_rng(SPLIT_SEED)
    is_test_N = np.zeros(len(labels_N), dtype=bool)
    for label in np.unique(labels_N):
        members = generator.permutation(np.flatnonzero(labels_N == label))
        is_test_N[members[: max(1, round(test_fraction * len(members)))]] = True
    return np.flatnonzero(~is_test_N), np.flatnonzero(is_test_N)
