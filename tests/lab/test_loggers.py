"""Loggers by name, and that each run of a process is one of its own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from trainact.lab.loggers import close, make_logger


def make(kind: str, folder: Path) -> Logger | None:
    name = "fig3-sgd-100, tract λ=0.1, seed 0"
    return make_logger(kind, folder, name, "0123", "trainact", {})


def test_tensorboard_goes_on_in_the_folder_of_the_run(tmp_path: Path) -> None:
    logger = make("tensorboard", tmp_path)
    assert isinstance(logger, TensorBoardLogger)
    folder = Path(logger.log_dir)
    assert folder == tmp_path / "fig3-sgd-100-tract-lam=0.1-seed-0-0123"
    again = make("tensorboard", tmp_path)
    assert isinstance(again, TensorBoardLogger)
    assert again.log_dir == logger.log_dir
    close(logger)


def test_none(tmp_path: Path) -> None:
    assert make("none", tmp_path) is None
    close(None)
    assert list(tmp_path.iterdir()) == []


def test_weights_and_biases_ends_with_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[bool] = []
    experiment = SimpleNamespace(finish=lambda: ended.append(True))
    monkeypatch.setattr(WandbLogger, "experiment", experiment)
    close(WandbLogger.__new__(WandbLogger))
    assert ended == [True]
