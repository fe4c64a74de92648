"""What happens after an epoch: a checkpoint first, then whoever wants to know of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from trainact.lab.errors import LabError, describe_os_error
from trainact.lab.task import ClassificationTask, EpochResult, is_lost


class AfterEpoch(Checkpoint):
    """Keeps the last checkpoint of a run and reports its epochs.

    Lightning calls callbacks of this kind last. The checkpoint is written before the
    epoch is reported: what was reported is never trained again, but for epochs that
    were too short for a checkpoint each, which give the same again.

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

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, then report.

        Args:
            trainer: of the run.
            pl_module: the task.

        Raises:
            TypeError: if the module is not a `ClassificationTask`.
        """
        if not isinstance(pl_module, ClassificationTask):
            raise TypeError(f"{type(pl_module).__name__} is no ClassificationTask")
        history = pl_module.history
        if self._path is not None and not is_lost(history):
            self._save(trainer, self._path)
        self._on_epoch(history)

    def _save(self, trainer: Trainer, path: Path) -> None:
        if time.monotonic() - self._last >= self._seconds:
            save_whole(trainer, path)
            self._last = time.monotonic()


def save_whole(trainer: Trainer, path: Path) -> None:
    """Write a checkpoint beside its place, then put it there in one step.

    Args:
        trainer: whose state to save.
        path: of the checkpoint.

    Raises:
        LabError: if the disk does not take it; the checkpoint before stays.
    """
    fresh = path.with_suffix(".fresh")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        trainer.save_checkpoint(fresh)
        Path(fresh).replace(path)
    except OSError as error:
        raise LabError(
            f"the checkpoint {path} could not be written ({describe_os_error(error)}): "
            "make room and give the same command again; the last checkpoint is kept"
        ) from error
