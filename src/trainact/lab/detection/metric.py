"""mAP of VOC2007 as a metric of torchmetrics, which gathers it over all processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from trainact.lab.detection.average_precision import (
    Detections,
    Truth,
    mean_average_precision,
)

# Image, label, score or difficult, and four edges. Whole numbers below 2^24 and what a
# model computes are exact in float32.
_COLUMNS = 7


class VOCMeanAveragePrecision(Metric):
    """Collects detections and objects; `compute` gives mAP, see `average_precision`.

    An image must be seen by one process, once.
    """

    full_state_update = False
    found: list[Tensor]
    truth: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        # One-dimensional, as torchmetrics makes the state of a process without images.
        self.add_state("found", [], dist_reduce_fx="cat")
        self.add_state("truth", [], dist_reduce_fx="cat")

    def update(
        self, found: Sequence[dict[str, Tensor]], targets: Sequence[dict[str, Tensor]]
    ) -> None:
        """Add some images.

        Args:
            found: of each image ``boxes`` [D, 4], ``labels`` [D] and ``scores`` [D].
            targets: of each image ``boxes`` [G, 4], ``labels`` [G], ``difficult`` [G]
                and its number ``image``; labels count like those of ``found``.
        """
        for each, target in zip(found, targets, strict=True):
            image = target["image"]
            self.found.append(_rows(image, each["labels"], each["scores"], each))
            self.truth.append(
                _rows(image, target["labels"], target["difficult"], target)
            )

    def compute(self) -> Tensor:
        """Compute mAP over all images.

        Returns:
            A number between 0 and 1; NaN where no object counts.
        """
        image_D, label_D, score_D, box_D4 = _columns(self.found)
        image_G, label_G, difficult_G, box_G4 = _columns(self.truth)
        value = mean_average_precision(
            Detections(image_D, label_D, score_D, box_D4),
            Truth(image_G, label_G, difficult_G > 0, box_G4),
        )
        return torch.tensor(value)


def _rows(
    image: Tensor, labels_N: Tensor, third_N: Tensor, boxes: dict[str, Tensor]
) -> Tensor:
    columns = (image.expand(len(labels_N)), labels_N, third_N)
    table_N3 = torch.stack([column.float() for column in columns], dim=1)
    return torch.cat((table_N3, boxes["boxes"].float()), dim=1).flatten()


def _columns(
    state: list[Tensor],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any], NDArray[np.float64]]:
    table_N7 = dim_zero_cat(state).cpu().double().numpy().reshape(-1, _COLUMNS)
    image_N, label_N = table_N7[:, :2].astype(np.int64).T
    return image_N, label_N, table_N7[:, 2], table_N7[:, 3:]
