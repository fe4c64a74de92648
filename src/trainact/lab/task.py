"""What every run has in common, as a LightningModule: steps, epochs, their history.

A subclass says what the loss of a batch is and how a model is tested.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from dataclasses import asdict
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torchmetrics.aggregation import SumMetric

from trainact.lab.config import RunConfig
from trainact.lab.data.batches import Batches, Portion
from trainact.lab.epoch_result import EpochResult
from trainact.lab.methods import find_method
from trainact.lab.ranks import least
from trainact.lab.schedules import make_schedule
from trainact.lab.seeds import derive_seed
from trainact.lab.timer import Timer

# Reading the loss waits for a GPU; the step that is reported is exact all the same.
_STEPS_BETWEEN_CHECKS = 32
# Without it, seed and epoch decide the order of the images and their augmentation.
_FOR_THE_MODEL = 1
_NEVER = torch.iinfo(torch.int64).max


class Task(LightningModule):
    """Trains a model and tests it after every epoch.

    Whatever is drawn while a step trains depends on the seed, the epoch, the step and
    the process alone, so that a run that goes on from a checkpoint draws the same.

    Args:
        model: what is trained.
        config: of the run.

    Attributes:
        batches: what it is trained on, to be set before it is.
        has_started: whether it was trained, after what a checkpoint held was restored.
    """

    batches: Batches

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.history: list[EpochResult] = []
        self.diverged_step: int | None = None
        self.has_started = False
        # Not torchmetrics' mean, which forgets the weights when it need not mind NaN.
        self.loss_sum = SumMetric(nan_strategy="disable")
        self.loss_count = SumMetric(nan_strategy="disable")
        # No buffer: each process would be given the first one's in every step.
        self._lost_at = torch.tensor(_NEVER)
        self._timer = Timer(self._now)

    @abstractmethod
    def compute_loss(self, batch: Any, batch_idx: int) -> Tensor:
        """Compute the mean loss of a (micro-)batch.

        Args:
            batch: images and labels.
            batch_idx: of the batch in its epoch.

        Returns:
            A number.
        """

    @abstractmethod
    def test_batch(self, batch: Any) -> None:
        """Test the model on a batch and keep what `scores` needs.

        Args:
            batch: images and labels.
        """

    @abstractmethod
    def scores(self) -> tuple[float, float | None]:
        """Score the model on all that was tested, over all processes.

        Returns:
            (accuracy, top-5 accuracy or None).
        """

    @abstractmethod
    def reset_scores(self) -> None:
        """Forget what was tested."""

    def portion(self, batch_idx: int) -> Portion:
        """Say what a micro-batch is of its batch.

        Args:
            batch_idx: of the micro-batch.

        Returns:
            Its weight, and what is mixed.
        """
        return self.batches.portion(batch_idx)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Start the random numbers of the step.

        Args:
            batch: not used.
            batch_idx: of the batch in its epoch.
        """
        del batch
        place = (self.current_epoch, _FOR_THE_MODEL, batch_idx, self.global_rank)
        torch.manual_seed(derive_seed(self.config.seed, *place))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Compute the loss of a (micro-)batch.

        Args:
            batch: images and labels.
            batch_idx: of the batch in its epoch.

        Returns:
            The mean loss times the batch's weight, see `Portion`.
        """
        loss = self.compute_loss(batch, batch_idx)
        self._note(loss.detach(), len(batch[1]))
        return loss * self.portion(batch_idx).weight

    def _note(self, loss: Tensor, count: int) -> None:
        self.loss_sum.update(loss * count)
        self.loss_count.update(count)
        step = torch.where(loss.isfinite(), _NEVER, self.global_step + 1)
        torch.minimum(self._lost_at, step, out=self._lost_at)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop a run whose loss is lost; note the time that compilation took.

        Args:
            outputs: not used.
            batch: not used.
            batch_idx: of the batch in its epoch.
        """
        del outputs, batch
        if batch_idx == 0 and not self._timer.compiled and self.config.compile:
            self._timer.set_apart()
        is_cheap = self.device.type == "cpu" and self.trainer.world_size == 1
        if is_cheap or batch_idx % _STEPS_BETWEEN_CHECKS == 0:
            self.check_loss()

    def check_loss(self) -> bool:
        """Stop the run if the loss was not finite in any step of any process.

        Returns:
            Whether it was finite so far.
        """
        if self.diverged_step is None:
            step = int(least(self._lost_at))
            if step < _NEVER:
                self.diverged_step = step
                self.trainer.should_stop = True
        return self.diverged_step is None

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Test the model on a batch.

        Args:
            batch: images and labels.
            batch_idx: of the batch.
        """
        self.test_batch(batch)
        if batch_idx == 0 and not self._timer.compiled and self.config.compile:
            self._timer.set_apart()
            self._timer.compiled = True

    def on_train_start(self) -> None:
        """Start the clock, which may be inside an epoch."""
        self.has_started = True
        self._lost_at = self._lost_at.to(self.device)
        self._timer.go_on()

    def on_train_epoch_start(self) -> None:
        """Start the clock of the epoch."""
        self._timer.start_epoch()

    def on_validation_start(self) -> None:
        """Stop the clock of training: evaluation is not training time."""
        self._timer.switch()

    def on_validation_end(self) -> None:
        """Stop the clock of evaluation."""
        self._timer.stop()

    def on_train_epoch_end(self) -> None:
        """Note the epoch; Lightning has evaluated by now. A lost run ends here."""
        self.check_loss()
        accuracy, top5 = self.scores()
        result = EpochResult(
            accuracy=accuracy,
            top5=top5,
            loss=float(self.loss_sum.compute() / self.loss_count.compute()),
            **self._timer.seconds(),
        )
        self.reset_scores()
        self.loss_sum.reset()
        self.loss_count.reset()
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
        """Keep the epochs so far, and what there is of the one that is trained.

        Args:
            checkpoint: to add to.
        """
        checkpoint["config"] = self.config.to_json()
        checkpoint["history"] = [asdict(epoch) for epoch in self.history]
        checkpoint["loss"] = [_total(self.loss_sum), _total(self.loss_count)]
        self._timer.stop()
        checkpoint["spent"] = self._timer.seconds()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the epochs so far.

        Args:
            checkpoint: that `on_save_checkpoint` added to.

        Raises:
            ValueError: if it is of another run, or not whole.
        """
        own = self.config.to_json()
        # Checkpoints of older versions, which all lie between epochs, lack all but the
        # history.
        if checkpoint.get("config", own) != own:
            raise ValueError("it was written by another run")
        for name in ("loops", "optimizer_states", "lr_schedulers"):
            if not checkpoint.get(name):  # of which Lightning would say nothing
                raise ValueError(f"it has no {name}")
        self.history = [EpochResult(**epoch) for epoch in checkpoint["history"]]
        sums = checkpoint.get("loss", (0.0, 0.0))
        if self.global_rank == 0:  # what is kept is of all processes together
            for metric, value in zip(
                (self.loss_sum, self.loss_count), sums, strict=True
            ):
                metric.update(torch.as_tensor(value, device=self.device))
        self._timer.go_on(checkpoint.get("spent"))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Build the optimizer and the schedule, stepped once per step.

        Returns:
            Both, as Lightning wants them.
        """
        make_optimizer = find_method(self.config.method).optimizer
        optimizer = make_optimizer(self.model, self.config)
        # Asked for the steps, the Trainer would not set the batches to a checkpoint.
        scheduler = make_schedule(optimizer, self.config, self.batches.num_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _total(metric: SumMetric) -> Tensor:
    """Over all processes, as sums of each stay what they are."""
    with metric.sync_context():
        return metric.sum_value.clone()
