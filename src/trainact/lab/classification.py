"""Image classification: a loss of the logits, and how many answers are right."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from trainact.lab import losses
from trainact.lab.config import RunConfig
from trainact.lab.data.batches import Batch
from trainact.lab.data.mixing import Mixing
from trainact.lab.data.normalise import Normalise
from trainact.lab.task import Task

TOP_K = 5


class ClassificationTask(Task):
    """Trains a classifier.

    Args:
        model: maps normalised images [B, C, H, W] to logits.
        config: of the run.
        statistics: mean and std per channel.
        num_classes: of the data.
    """

    def __init__(
        self,
        model: nn.Module,
        config: RunConfig,
        statistics: tuple[Tensor, Tensor],
        num_classes: int,
    ) -> None:
        super().__init__(model, config)
        self.num_classes = num_classes
        self.normalise = Normalise(*statistics)
        self.mix = Mixing(config, num_classes) if config.mixes else None
        self.test_accuracy = _accuracy(num_classes, 1)
        self.test_top5 = _accuracy(num_classes, TOP_K) if num_classes > TOP_K else None

    def compute_loss(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute the mean loss of a (micro-)batch, mixed where the setting says so.

        Args:
            batch: byte images and labels.
            batch_idx: of the batch in its epoch.

        Returns:
            A number.
        """
        images, labels = batch
        inputs, targets = self._inputs(images), labels
        smoothing = self.config.label_smoothing
        if self.mix is not None:  # which smooths the labels itself
            inputs, targets = self.mix(inputs, labels, self.portion(batch_idx).mixed)
            smoothing = 0.0
        return losses.compute(self.config.loss, self.model(inputs), targets, smoothing)

    def _inputs(self, images: Tensor) -> Tensor:
        inputs = self.normalise(images)
        if self.config.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs

    def test_batch(self, batch: Batch) -> None:
        """Count the right answers of a batch.

        Args:
            batch: byte images and labels.
        """
        images, labels = batch
        logits = self.model(self._inputs(images))
        self.test_accuracy.update(logits, labels)
        if self.test_top5 is not None:
            self.test_top5.update(logits, labels)

    def scores(self) -> tuple[float, float | None]:
        """Compute the accuracy on all that was tested.

        Returns:
            (top-1, top-5 or None), shares.
        """
        top5 = self.test_top5
        return (
            float(self.test_accuracy.compute()),
            None if top5 is None else float(top5.compute()),
        )

    def reset_scores(self) -> None:
        """Forget what was tested."""
        self.test_accuracy.reset()
        if self.test_top5 is not None:
            self.test_top5.reset()


def _accuracy(num_classes: int, top_k: int) -> MulticlassAccuracy:
    return MulticlassAccuracy(
        num_classes, average="micro", top_k=top_k, validate_args=False
    )
