"""Object detection: the losses of Faster R-CNN, and mAP on the test images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainact.lab.config import RunConfig
from trainact.lab.detection.batches import DetectionBatch
from trainact.lab.detection.metric import VOCMeanAveragePrecision
from trainact.lab.task import Task


class DetectionTask(Task):
    """Trains a detector. The accuracy of an epoch is its mAP, as a share.

    Args:
        model: a detector as torchvision's, whose label 0 is the background.
        config: of the run.
    """

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        super().__init__(model, config)
        self.test_map = VOCMeanAveragePrecision()

    def compute_loss(self, batch: DetectionBatch, batch_idx: int) -> Tensor:
        """Add up the four losses: of proposals and of boxes, what and where they are.

        Args:
            batch: byte images and targets, without difficult objects.
            batch_idx: not used.

        Returns:
            A number.
        """
        del batch_idx
        images, targets = batch
        labelled = [
            {"boxes": target["boxes"], "labels": target["labels"] + 1}
            for target in targets
        ]
        losses: dict[str, Tensor] = self.model(_to_unit(images), labelled)
        return torch.stack(list(losses.values())).sum()

    def test_batch(self, batch: DetectionBatch) -> None:
        """Find objects in a batch.

        Args:
            batch: byte images and targets.
        """
        images, targets = batch
        found: list[dict[str, Tensor]] = self.model(_to_unit(images))
        self.test_map.update(
            [{**each, "labels": each["labels"] - 1} for each in found], targets
        )

    def scores(self) -> tuple[float, float | None]:
        """Compute mAP on all that was tested, over all processes.

        Returns:
            (mAP, None).
        """
        return float(self.test_map.compute()), None

    def reset_scores(self) -> None:
        """Forget what was tested."""
        self.test_map.reset()


def _to_unit(images: list[Tensor]) -> list[Tensor]:
    """Bytes to numbers between 0 and 1."""
    return [image_CHW.float() / 255 for image_CHW in images]
