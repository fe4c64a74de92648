"""Image classification as a LightningModule, with one entry of history per epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics.aggregation import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from trainact.lab.config import RunConfig
from trainact.lab.data.normalise import Normalise
from trainact.lab.methods import find_method
from trainact.lab.schedules import make_schedule
from trainact.lab.seeds import derive_seed

Batch = tuple[Tensor, Tensor]
TOP_K = 5
# Reading the loss waits for a GPU; the step that is reported is exact all the same.
_STEPS_BETWEEN_CHECKS = 32
# Without it, seed and epoch decide the order of the images and their augmentation.
_FOR_THE_MODEL = 1
_NEVER = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class EpochResult:
    """What one epoch gave.

    Attributes:
        accuracy: on the test images after the epoch.
        top5: likewise, of the five most likely classes; None for few classes.
        loss: mean over the epoch's training images; may be infinite or NaN.
        seconds: training, without evaluation and compilation.
        eval_seconds: evaluation.
        compile_seconds: first step and first test of a compiled model.
    """

    accuracy: float
    top5: float | None
    loss: float
    seconds: float
    eval_seconds: float
    compile_seconds: float


class ClassificationTask(LightningModule):
    """Trains a classifier with cross-entropy and tests it after every epoch.

    Whatever is drawn while an epoch trains depends on the seed and the epoch alone, so
    that a run that goes on from a checkpoint draws the same.

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
        super().__init__()
        self.model = model
        self.config = config
        self.history: list[EpochResult] = []
        self.diverged_step: int | None = None
        self.normalise = Normalise(*statistics)
        self.train_loss = MeanMetric(nan_strategy="disable")
        self.test_accuracy = _accuracy(num_classes, 1)
        self.test_top5 = _accuracy(num_classes, TOP_K) if num_classes > TOP_K else None
        self._lost_at: Tensor
        self.register_buffer("_lost_at", torch.tensor(_NEVER), persistent=False)
        self._timer = _Timer(self._now)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Compute the loss of a batch.

        Args:
            batch: byte images and labels.
            batch_idx: not used.

        Returns:
            The mean cross-entropy.
        """
        images, labels = batch
        logits = self.model(self._inputs(images))
        loss = cross_entropy(
            logits, labels, label_smoothing=self.config.label_smoothing
        )
        self._note(loss.detach(), len(labels))
        return loss

    def _note(self, loss: Tensor, count: int) -> None:
        self.train_loss.update(loss, count)
        step = torch.where(loss.isfinite(), _NEVER, self.global_step + 1)
        torch.minimum(self._lost_at, step, out=self._lost_at)

    def _inputs(self, images: Tensor) -> Tensor:
        inputs = self.normalise(images)
        if self.config.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Stop a run whose loss is lost; note the time that compilation took.

        Args:
            outputs: not used.
            batch: not used.
            batch_idx: of the batch in its epoch.
        """
        del outputs, batch
        if batch_idx == 0 and not self._timer.compiled and self.config.compile:
            self._timer.set_apart()
        on_cpu = self.device.type == "cpu"
        if on_cpu or batch_idx % _STEPS_BETWEEN_CHECKS == 0:
            self._check_loss()

    def _check_loss(self) -> None:
        if self.diverged_step is None and (step := int(self._lost_at)) < _NEVER:
            self.diverged_step = step
            self.trainer.should_stop = True

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the right answers of a batch.

        Args:
            batch: byte images and labels.
            batch_idx: of the batch.
        """
        images, labels = batch
        logits = self.model(self._inputs(images))
        self.test_accuracy.update(logits, labels)
        if self.test_top5 is not None:
            self.test_top5.update(logits, labels)
        if batch_idx == 0 and not self._timer.compiled and self.config.compile:
            self._timer.set_apart()
            self._timer.compiled = True

    def on_train_epoch_start(self) -> None:
        """Start the clock and the random numbers of the epoch."""
        seed = derive_seed(self.config.seed, self.current_epoch, _FOR_THE_MODEL)
        torch.manual_seed(seed)
        self._timer.start_epoch()

    def on_validation_start(self) -> None:
        """Stop the clock of training: evaluation is not training time."""
        self._timer.switch()

    def on_validation_end(self) -> None:
        """Stop the clock of evaluation."""
        self._timer.stop()

    def on_train_epoch_end(self) -> None:
        """Note the epoch; Lightning has evaluated by now. A lost run ends here."""
        self._check_loss()
        top5 = self.test_top5
        result = EpochResult(
            accuracy=float(self.test_accuracy.compute()),
            top5=None if top5 is None else float(top5.compute()),
            loss=float(self.train_loss.compute()),
            **self._timer.seconds(),
        )
        for metric in (self.test_accuracy, self.train_loss, top5):
            if metric is not None:
                metric.reset()
        self.history.append(result)
        self._log(result)

    def _log(self, result: EpochResult) -> None:
        """Give the epoch to TensorBoard or Weights & Biases."""
        if self.logger is None:
            return
        values = {k: v for k, v in asdict(result).items() if v is not None}
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.logger.log_metrics({**values, "lr": lr}, step=len(self.history))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the epochs so far.

        Args:
            checkpoint: to add to.
        """
        checkpoint["history"] = [asdict(epoch) for epoch in self.history]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the epochs so far.

        Args:
            checkpoint: that `on_save_checkpoint` added to.
        """
        self.history = [EpochResult(**epoch) for epoch in checkpoint["history"]]

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Build the optimizer and the schedule, stepped once per batch.

        Returns:
            Both, as Lightning wants them.
        """
        make_optimizer = find_method(self.config.method).optimizer
        optimizer = make_optimizer(self.model, self.config)
        steps = int(self.trainer.estimated_stepping_batches) // self.config.epochs
        scheduler = make_schedule(optimizer, self.config, steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class _Timer:
    """Seconds of one epoch: training, evaluation and compilation apart."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.compiled = False
        self.start_epoch()

    def start_epoch(self) -> None:
        self._spent = {"seconds": 0.0, "eval_seconds": 0.0, "compile_seconds": 0.0}
        self._part = "seconds"
        self._since = self._now()

    def _book(self, part: str) -> None:
        now = self._now()
        self._spent[part] += now - self._since
        self._since = now

    def set_apart(self) -> None:
        """Book what has passed since the last mark as compilation."""
        self._book("compile_seconds")

    def switch(self) -> None:
        """From training to evaluation."""
        self._book("seconds")
        self._part = "eval_seconds"

    def stop(self) -> None:
        self._book(self._part)

    def seconds(self) -> dict[str, float]:
        return dict(self._spent)


def _accuracy(num_classes: int, top_k: int) -> MulticlassAccuracy:
    return MulticlassAccuracy(
        num_classes, average="micro", top_k=top_k, validate_args=False
    )


def is_lost(history: list[EpochResult]) -> bool:
    """Whether a run ended because its loss was not finite.

    Args:
        history: of the run so far.

    Returns:
        True if the last epoch's loss is infinite or NaN.
    """
    return bool(history) and not math.isfinite(history[-1].loss)
