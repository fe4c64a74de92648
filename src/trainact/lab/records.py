"""Finished runs, and the epochs of runs, as JSON lines."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from trainact.lab.config import RunConfig
from trainact.lab.line_file import JsonLine, LineFile, read_line

SCHEMA = 2
_READABLE = (1, SCHEMA)  # what 1 lacks has defaults
FILE_NAME = "records.jsonl"


class DataSummary(TypedDict):
    """What identifies the data of a run.

    Attributes:
        train: number of training images.
        test: number of test images.
        shape: channels, height and width of an image.
        classes: their names.
        hash: of the images and labels.
    """

    train: int
    test: int
    shape: list[int]
    classes: list[str]
    hash: str


@dataclass(frozen=True)
class Record(JsonLine):
    """One finished run.

    Attributes:
        key: hash of the configuration and the data, see `RunConfig.key`.
        config: what was run.
        accuracy: after every epoch, on the images that `config.evaluated` names.
        loss: mean training loss of every epoch; None where it was not finite.
        seconds: training time of every epoch, without evaluation and compilation.
        diverged: whether the loss stopped being finite; the run ends there.
        layers: names of the layers that the method changed.
        num_parameters: of the model.
        data: what it was run on.
        device: name of the hardware.
        threads: of torch on the CPU.
        versions: of the libraries, Python and the platform.
        commit: of trainact's source, or None.
        started: UTC, ISO 8601.
        command: as typed.
        top5: share of test images whose class is among the five most likely, after
            every epoch; None where there are five classes or fewer.
        eval_seconds: of testing, after every epoch.
        compile_seconds: of the first step and the first test, for a compiled model.
        diverged_step: step at which the loss was first not finite, counted from 1.
        recipe: name under which it was run, or None.
        recipe_hash: see `trainact.lab.config.setting_hash`.
        pipeline: ``resident`` or ``workers``, see `trainact.lab.data.pipeline`.
        num_devices: that trained together.
        micro_batches: in which each of them took its share of a batch.
        schema: version of these fields.
    """

    key: str
    config: RunConfig
    accuracy: tuple[float, ...]
    loss: tuple[float | None, ...]
    seconds: tuple[float, ...]
    diverged: bool
    layers: tuple[str, ...]
    num_parameters: int
    data: DataSummary
    device: str
    threads: int
    versions: dict[str, str]
    commit: str | None
    started: str
    command: str
    top5: tuple[float, ...] | None = None
    eval_seconds: tuple[float, ...] = ()
    compile_seconds: float = 0.0
    diverged_step: int | None = None
    recipe: str | None = None
    recipe_hash: str = ""
    pipeline: str = "resident"
    num_devices: int = 1
    micro_batches: int = 1
    schema: int = field(default=SCHEMA)

    @staticmethod
    def from_line(line: str) -> Record:
        """Read a line that `to_line` wrote.

        Args:
            line: one line of JSON.

        Returns:
            The record.
        """
        record = read_line(line, _READABLE, _read_record)
        _check_record(record)
        return record


def _read_record(values: dict[str, Any]) -> Record:
    values["config"] = RunConfig.from_json(values["config"])
    for name in ("accuracy", "loss", "seconds", "layers", "top5", "eval_seconds"):
        if values.get(name) is not None:
            values[name] = tuple(values[name])
    return Record(**values)


def _check_record(record: Record) -> None:
    """Refuse a record that makes no sense.

    Raises:
        ValueError: if it does not.
    """
    config, length = record.config, len(record.accuracy)
    series = [record.accuracy, record.seconds]
    series += [] if record.top5 is None else [record.top5]
    if not all(math.isfinite(value) for values in series for value in values):
        raise ValueError("a value is not a finite number")
    if {len(values) for values in series} != {length}:
        raise ValueError("its series differ in length")
    if not 1 <= length <= config.epochs:
        raise ValueError(f"{length} values for {config.epochs} epochs")
    if length < config.epochs and not record.diverged:
        raise ValueError(f"it ends after {length} of {config.epochs} epochs")
    if config.batch_size < 1 or (config.lam is not None and not config.lam > 0):
        raise ValueError("λ or the size of a batch is not above 0")


@dataclass(frozen=True)
class EpochRecord(JsonLine):
    """One epoch of a run, written while the run goes on.

    Attributes:
        key: of the run.
        recipe: name under which it is run, or None.
        recipe_hash: see `trainact.lab.config.setting_hash`.
        model: resolved name.
        arm: method with its λ.
        seed: of the run.
        epoch: counted from 1.
        accuracy: on the test images.
        top5: likewise; None for five classes or fewer.
        loss: mean over the training images; None where it was not finite.
        seconds: training alone.
        eval_seconds: testing.
        compile_seconds: compilation.
        device: name of the hardware.
        versions: of the libraries, Python and the platform.
        commit: of trainact's source, or None.
        schema: version of these fields.
    """

    key: str
    recipe: str | None
    recipe_hash: str
    model: str
    arm: str
    seed: int
    epoch: int
    accuracy: float
    top5: float | None
    loss: float | None
    seconds: float
    eval_seconds: float
    compile_seconds: float
    device: str
    versions: dict[str, str]
    commit: str | None
    schema: int = field(default=SCHEMA)

    @staticmethod
    def from_line(line: str) -> EpochRecord:
        """Read a line that `to_line` wrote.

        Args:
            line: one line of JSON.

        Returns:
            The record.
        """
        return read_line(line, (SCHEMA,), lambda values: EpochRecord(**values))


def finite(value: float) -> float | None:
    """Round a number for a record.

    Args:
        value: any number.

    Returns:
        The number with six digits, None if it is infinite or NaN.
    """
    return round(value, 6) if math.isfinite(value) else None


class RecordFile(LineFile[Record]):
    """The records of a folder.

    Args:
        path: of the file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, Record.from_line)
