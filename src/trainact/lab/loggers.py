"""Lightning's loggers by name: TensorBoard, Weights & Biases or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from trainact.lab.errors import LabError


def make_logger(
    kind: str, folder: Path, name: str, key: str, project: str, config: dict[str, Any]
) -> Logger | None:
    """Build the logger of one run; a run that goes on writes to the same place.

    Args:
        kind: ``none``, ``tensorboard`` or ``wandb``.
        folder: for what is written here.
        name: of the run, for people.
        key: of the run.
        project: of Weights & Biases.
        config: of the run.

    Returns:
        The logger, or None.

    Raises:
        LabError: if its package is not installed.
    """
    try:
        if kind == "tensorboard":
            return TensorBoardLogger(
                folder, name=None, version=f"{_file_name(name)}-{key}"
            )
        if kind == "wandb":
            folder.mkdir(parents=True, exist_ok=True)
            return WandbLogger(
                name=name,
                save_dir=folder,
                id=key,
                project=project,
                resume="allow",
                config=config,
            )
    except ModuleNotFoundError as error:
        raise LabError(
            f"--logger {kind} needs {kind}, which is not installed: pip install "
            f"{kind}, or --logger none"
        ) from error
    return None


def close(logger: Logger | None) -> None:
    """End what a logger began, so that the next run of this process is one of its own.

    Args:
        logger: of a run that has ended, or None.
    """
    if isinstance(logger, WandbLogger):
        logger.experiment.finish()


def _file_name(name: str) -> str:
    """Keep what every file system takes."""
    kept = name.replace("λ", "lam").replace(", ", "-").replace(" ", "-")
    return "".join(c if c.isalnum() or c in "-_.=+" else "-" for c in kept)
