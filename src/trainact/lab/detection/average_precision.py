"""Average precision as the PASCAL VOC2007 challenge defined it.

The detections of a class are taken in order of their scores. Each belongs to the object
of its class and image that it overlaps most, provided that the intersection over union
is at least 0.5: the first one that belongs to an object is right, all others that do
are wrong, as are those that belong to none. Detections that belong to a difficult
object do not count, however many, and neither does missing it. Average precision is the
mean, over the eleven recalls r = 0, 0.1, ..., 1, of the highest precision that is
reached at a recall of r or more; mAP is its mean over the classes.

Where this differs from other implementations:

1. Boxes are edges, see `trainact.lab.detection.examples`, so that their overlap is that
   of the challenge's own code, which adds 1 to differences of pixel numbers.
2. Whether a recall is reached is decided in whole numbers: three of ten objects reach
   0.3, also where 3 * 0.1 is rounded up.
3. A class with no object that counts has no average precision and is not part of mAP.
4. Equal scores are in the order of their images, then in the order given.

torchmetrics and pycocotools agree where no object is difficult and no detection
overlaps two; both give a detection to an object that is still free, and their crowds,
which are also neither right nor wrong, overlap otherwise.

Shape suffixes: D detections, G objects (ground truth), R recalls.

References:
    Everingham, Van Gool, Williams, Winn, Zisserman: The PASCAL Visual Object Classes
    (VOC) Challenge, IJCV 2010, Section 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

MIN_OVERLAP = 0.5
NUM_RECALLS = 11


@dataclass(frozen=True)
class Detections:
    """What a model found, in any number of images.

    Attributes:
        image: int64 [D], which image.
        label: int64 [D], which class.
        score: float64 [D], the higher the surer.
        box: float64 [D, 4], edges.
    """

    image: NDArray[np.int64]
    label: NDArray[np.int64]
    score: NDArray[np.float64]
    box: NDArray[np.float64]

    def of_class(self, label: int) -> Detections:
        """Take one class.

        Args:
            label: of the class.

        Returns:
            Its detections, the surest first.
        """
        chosen = np.flatnonzero(self.label == label)
        order = np.lexsort((self.image[chosen], -self.score[chosen]))
        chosen = chosen[order]
        return Detections(
            self.image[chosen], self.label[chosen], self.score[chosen], self.box[chosen]
        )


@dataclass(frozen=True)
class Truth:
    """What there is to be found.

    Attributes:
        image: int64 [G], which image.
        label: int64 [G], which class.
        difficult: bool [G], what need not be found.
        box: float64 [G, 4], edges.
    """

    image: NDArray[np.int64]
    label: NDArray[np.int64]
    difficult: NDArray[np.bool_]
    box: NDArray[np.float64]

    def of_class(self, label: int) -> Truth:
        """Take one class.

        Args:
            label: of the class.

        Returns:
            Its objects.
        """
        chosen = np.flatnonzero(self.label == label)
        return Truth(
            self.image[chosen],
            self.label[chosen],
            self.difficult[chosen],
            self.box[chosen],
        )


def mean_average_precision(detections: Detections, truth: Truth) -> float:
    """Average over the classes that have an object which is not difficult.

    Args:
        detections: of all images.
        truth: of all images.

    Returns:
        mAP, between 0 and 1; NaN where no class has such an object.
    """
    values = list(average_precisions(detections, truth).values())
    return float(np.mean(values)) if values else float("nan")


def average_precisions(detections: Detections, truth: Truth) -> dict[int, float]:
    """Compute the average precision of each class.

    Args:
        detections: of all images.
        truth: of all images.

    Returns:
        Label → average precision, for the classes that have an object which is not
        difficult.
    """
    labels = np.unique(truth.label[~truth.difficult])
    return {
        int(label): _of_one_class(detections.of_class(label), truth.of_class(label))
        for label in labels
    }


def _of_one_class(detections: Detections, truth: Truth) -> float:
    is_right_D, counts_D = judge(detections, truth)
    return eleven_points(is_right_D[counts_D], int(np.sum(~truth.difficult)))


def judge(
    detections: Detections, truth: Truth
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Say which detections of a class are right.

    Args:
        detections: of the class, the surest first.
        truth: of the class.

    Returns:
        Which are right [D], and which count [D]: all but those of difficult objects.
    """
    owner_D = _owners(detections, truth)
    has_owner_D = owner_D >= 0
    counts_D = np.ones(len(owner_D), dtype=np.bool_)
    counts_D[has_owner_D] = ~truth.difficult[owner_D[has_owner_D]]
    owners, first = np.unique(owner_D, return_index=True)
    is_right_D = np.zeros(len(owner_D), dtype=np.bool_)
    is_right_D[first[owners >= 0]] = True
    return is_right_D & counts_D, counts_D


def _owners(detections: Detections, truth: Truth) -> NDArray[np.int64]:
    """The object that each detection belongs to, or -1 [D]."""
    owner_D = np.full(len(detections.image), -1, dtype=np.int64)
    for image in np.intersect1d(detections.image, truth.image):
        own_D = np.flatnonzero(detections.image == image)
        own_G = np.flatnonzero(truth.image == image)
        overlap_DG = _overlap(detections.box[own_D], truth.box[own_G])
        best_D = overlap_DG.argmax(axis=1)
        is_enough_D = overlap_DG.max(axis=1) >= MIN_OVERLAP
        owner_D[own_D] = np.where(is_enough_D, own_G[best_D], -1)
    return owner_D


def _overlap(
    box_D4: NDArray[np.float64], box_G4: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Intersection over union [D, G]."""
    return box_iou(torch.as_tensor(box_D4), torch.as_tensor(box_G4)).numpy()


def eleven_points(is_right_D: NDArray[np.bool_], num_objects: int) -> float:
    """Average the precision that is reached at eleven recalls.

    Args:
        is_right_D: which detections are right, the surest first.
        num_objects: to be found, at least one.

    Returns:
        Average precision, between 0 and 1.
    """
    found_D = np.cumsum(is_right_D)
    precision_D = found_D / np.arange(1, len(found_D) + 1)
    # The highest precision from here on, and 0 after the last detection.
    best_D = np.maximum.accumulate(precision_D[::-1])[::-1]
    best = np.append(best_D, 0.0)
    tenths = NUM_RECALLS - 1
    needed_R = num_objects * np.arange(NUM_RECALLS)
    first_R = np.searchsorted(tenths * found_D, needed_R, side="left")
    return float(best[first_R].mean())
