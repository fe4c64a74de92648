"""Keeps the last checkpoint of a run, inside epochs too, and reports its epochs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from trainact.lab.epoch_result import EpochResult, is_lost
from trainact.lab.errors import LabError, describe_os_error
from trainact.lab.ranks import agree
from trainact.lab.saved import put_in_place, read_saved
from trainact.lab.task import Task

# Several processes must agree whether to keep a checkpoint, which makes them wait for
# each other.
_STEPS_BETWEEN_QUESTIONS = 32


class Checkpointing(Checkpoint):
    """Keeps the last checkpoint of a run and reports its epochs.

    Lightning calls callbacks of this kind last. At the end of an epoch the checkpoint
    is written before the epoch is reported: what was reported is never trained again,
    but for epochs that were too short for a checkpoint each, which give the same again.

    Args:
        path: of the checkpoint, or None for none. It is replaced whole: killed at any
            moment, the last one or the one before is there.
        seconds: least time between two checkpoints.
        on_epoch: called with all epochs so far.
    """

    def __init__(
        self,
        path: Path | None,
        seconds: float,
        on_epoch: Callable[[list[EpochResult]], None],
    ) -> None:
        self._path = path
        self._seconds = seconds
        self._on_epoch = on_epoch
        self._last = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save after a step, but not after an epoch's last, which is tested first.

        Args:
            trainer: of the run.
            pl_module: the task.
            outputs: not used.
            batch: not used.
            batch_idx: of the (micro-)batch in its epoch.
        """
        del outputs, batch
        pieces = trainer.accumulate_grad_batches
        step, rest = divmod(batch_idx + 1, pieces)
        if self._path is None or rest or batch_idx + 1 == trainer.num_training_batches:
            return
        may_ask = trainer.world_size == 1 or step % _STEPS_BETWEEN_QUESTIONS == 0
        if may_ask and self._is_due() and _task(pl_module).check_loss():
            self._save(trainer, self._path)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, then report.

        Args:
            trainer: of the run.
            pl_module: the task.
        """
        history = _task(pl_module).history
        if self._path is not None and not is_lost(history) and self._is_due():
            self._save(trainer, self._path)
        self._on_epoch(history)

    def _is_due(self) -> bool:
        return agree(time.monotonic() - self._last >= self._seconds)

    def _save(self, trainer: Trainer, path: Path) -> None:
        save_whole(trainer, path)
        self._last = time.monotonic()


class SafeCheckpointIO(TorchCheckpointIO):
    """Reads checkpoints with `read_saved`, in every version of Lightning."""

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Args:
            path: of it.
            map_location: not used.
            weights_only: not used.

        Returns:
            What it holds.
        """
        del map_location, weights_only
        return read_saved(
            Path(path), "the checkpoint", "remove it, and the run starts anew"
        )


def _task(pl_module: LightningModule) -> Task:
    if not isinstance(pl_module, Task):
        raise TypeError(f"{type(pl_module).__name__} is no Task")
    return pl_module


def save_whole(trainer: Trainer, path: Path) -> None:
    """Write a checkpoint beside its place, then put it there in one step.

    Args:
        trainer: whose state to save; every process must make this call.
        path: of the checkpoint.

    Raises:
        LabError: if the disk does not take it; the checkpoint before stays.
    """
    fresh = path.with_suffix(".fresh")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        trainer.save_checkpoint(fresh)
        if trainer.is_global_zero:
            put_in_place(fresh, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # nothing that can be used
            fresh.unlink(missing_ok=True)
        raise LabError(
            f"the checkpoint {path} could not be written ({describe_os_error(error)}): "
            "make room and give the same command again; the last checkpoint is kept"
        ) from error
