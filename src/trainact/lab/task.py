"""Image classification as a LightningModule, with one entry of history per epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler
from torchmetrics.aggregation import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from trainact.lab.config import RunConfig

Batch = tuple[Tensor, Tensor]
MOMENTUM = 0.9


@dataclass(frozen=True)
class EpochResult:
    """What one epoch gave.

    Attributes:
        accuracy: on the test images after the epoch.
        loss: mean over the epoch's training images; may be infinite or NaN.
        seconds: training only.
    """

    accuracy: float
    loss: float
    seconds: float


class ClassificationTask(LightningModule):
    """Trains a classifier with cross-entropy and tests it after every epoch.

    Args:
        model: maps normalised images [B, C, H, W] to logits.
        config: of the run.
        statistics: mean and std per channel.
        num_classes: of the data.
        on_epoch: called with every epoch's result.
    """

    def __init__(
        self,
        model: nn.Module,
        config: RunConfig,
        statistics: tuple[Tensor, Tensor],
        num_classes: int,
        on_epoch: Callable[[EpochResult], None],
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.on_epoch = on_epoch
        self.history: list[EpochResult] = []
        self.normalise = Normalise(*statistics)
        self.train_loss = MeanMetric(nan_strategy="disable")
        self.test_accuracy = MulticlassAccuracy(
            num_classes, average="micro", validate_args=False
        )
        self._clock = 0.0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Compute the loss of a batch.

        Args:
            batch: byte images and labels.
            batch_idx: not used.

        Returns:
            The mean cross-entropy.
        """
        images, labels = batch
        loss = cross_entropy(self.model(self.normalise(images)), labels)
        self.train_loss.update(loss.detach(), len(labels))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        """Count the right answers of a batch.

        Args:
            batch: byte images and labels.
            batch_idx: not used.
        """
        images, labels = batch
        self.test_accuracy.update(self.model(self.normalise(images)), labels)

    def on_train_epoch_start(self) -> None:
        """Start the clock."""
        self._clock = self._now()

    def on_validation_start(self) -> None:
        """Stop the clock: the evaluation is not training time."""
        self._clock = self._now() - self._clock

    def on_train_epoch_end(self) -> None:
        """Note the epoch; Lightning has evaluated by now. A lost run ends here."""
        result = EpochResult(
            accuracy=float(self.test_accuracy.compute()),
            loss=float(self.train_loss.compute()),
            seconds=self._clock,
        )
        self.test_accuracy.reset()
        self.train_loss.reset()
        self.history.append(result)
        self.on_epoch(result)
        if not math.isfinite(result.loss):
            self.trainer.should_stop = True

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Build the optimizer and the schedule, stepped once per batch.

        Returns:
            Both, as Lightning wants them.
        """
        optimizer = make_optimizer(self.model, self.config)
        num_steps = int(self.trainer.estimated_stepping_batches)
        scheduler = make_schedule(optimizer, self.config.schedule, num_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class Normalise(nn.Module):
    """Bytes to float images with mean 0 and std 1 per channel.

    Args:
        mean_C: of the training images.
        std_C: of the training images.
    """

    def __init__(self, mean_C: Tensor, std_C: Tensor) -> None:
        super().__init__()
        self.mean_C11: Tensor
        self.std_C11: Tensor
        self.register_buffer("mean_C11", mean_C.reshape(-1, 1, 1))
        self.register_buffer("std_C11", std_C.reshape(-1, 1, 1))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Normalise a batch.

        Args:
            images_BCHW: bytes.

        Returns:
            Float images of the same shape.
        """
        return (images_BCHW.float() - self.mean_C11) / self.std_C11


def make_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """Build the optimizer of a run over all parameters of the model.

    Args:
        model: to be trained.
        config: of the run.

    Returns:
        SGD with momentum 0.9, Adam or AdamW, otherwise with torch's defaults.
    """
    parameters = list(model.parameters())
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=config.lr, momentum=MOMENTUM)
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=config.lr)
    return torch.optim.AdamW(parameters, lr=config.lr)


def make_schedule(
    optimizer: torch.optim.Optimizer, schedule: str, num_steps: int
) -> LRScheduler:
    """Build the schedule of a run.

    Args:
        optimizer: whose rate is set.
        schedule: ``cosine`` falls to zero over the run; ``constant`` stays.
        num_steps: of the run.

    Returns:
        A scheduler to be stepped after every batch.
    """
    if schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=num_steps)
    return LambdaLR(optimizer, lambda _: 1.0)
