"""A job: one run of a grid, carried out here, in another process or on a cluster."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import Logger

from trainact.lab import environment
from trainact.lab.config import RunConfig, setting_hash
from trainact.lab.data import AnyData, ImageData, is_in_memory, load_for
from trainact.lab.devices import resolve_device
from trainact.lab.epoch_result import EpochResult
from trainact.lab.errors import LabError, describe_os_error
from trainact.lab.experiment_options import Pipeline
from trainact.lab.loggers import close, make_logger
from trainact.lab.ranks import agree, this_process
from trainact.lab.records import EpochRecord, Record, finite
from trainact.lab.run import Execution, OnEpoch, key_for, train
from trainact.lab.workspace import Workspace


@dataclass(frozen=True)
class Place:
    """Where and how jobs are carried out; nothing of it is part of the experiment.

    Attributes:
        out: folder of the runs.
        data_dir: of downloads.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        pipeline: ``auto``, ``resident`` or ``workers``.
        logger: ``none``, ``tensorboard`` or ``wandb``.
        project: of Weights & Biases.
        checkpoint_seconds: least time between two checkpoints.
        micro_batch: most images that a device takes at once, or None.
        workers: processes that read images, or None.
        corrupt: ``stop`` or ``skip``: what to do about a damaged training photograph.
        command: what the user gave, for the records.
    """

    out: str
    data_dir: str = ".data"
    device: str = "auto"
    pipeline: Pipeline = "auto"
    logger: str = "none"
    project: str = "trainact"
    checkpoint_seconds: float = 20.0
    micro_batch: int | None = None
    workers: int | None = None
    corrupt: Literal["stop", "skip"] = "stop"
    command: str = field(default_factory=environment.command_line)


@dataclass(frozen=True)
class Job:
    """One run and the recipe that it belongs to.

    Attributes:
        config: of the run.
        recipe: name, or None.
        place: where it is carried out.
        weights: file of the weights that it begins with, or None.
        keep_weights: whether its own are kept.
    """

    config: RunConfig
    recipe: str | None
    place: Place
    weights: str | None = None
    keep_weights: bool = False

    def to_json(self) -> str:
        """Write the job as text.

        Returns:
            One line of JSON.
        """
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Job:
        """Read what `to_json` wrote.

        Args:
            text: the line.

        Returns:
            The job.
        """
        values: dict[str, Any] = json.loads(text)
        config = RunConfig.from_json(values["config"])
        place = Place(**values["place"])
        others = {name: values[name] for name in ("recipe", "weights", "keep_weights")}
        return Job(config, place=place, **others)


# What decides which data is loaded.
_OF_THE_DATA = ("data", "task", "image_size", "limit", "augment", "eval_crop")
_loaded: dict[object, AnyData] = {}


def data_of(job: Job) -> AnyData:
    """Load a job's data, or take it from the job before.

    Args:
        job: whose data is wanted.

    Returns:
        The images.

    Raises:
        LabError: if some are to be held out of a set that is not in memory.
    """
    setting, place = job.config, job.place
    what = tuple(getattr(setting, name) for name in _OF_THE_DATA)
    if is_in_memory(setting):
        what = what[:-2]  # augmented later
    key = (*what, place.data_dir, place.corrupt)
    if key not in _loaded:
        _loaded.clear()  # two sets might not fit into memory
        _loaded[key] = load_for(setting, Path(place.data_dir), place.corrupt)
    if setting.evaluated == "test":
        return _loaded[key]
    held_out = (*key, setting.evaluated)
    if held_out not in _loaded:
        every = _loaded[key]
        if not isinstance(every, ImageData):
            raise LabError(
                "only images in memory can be held out, not photographs and not images "
                "with boxes: leave --tuned out"
            )
        _loaded[held_out] = every.held_out()
    return _loaded[held_out]


def key_of(job: Job) -> str:
    """Compute under which key the record of a job is found.

    Args:
        job: any.

    Returns:
        The key.
    """
    return key_for(job.config, data_of(job))


def carry_out(job: Job, on_epoch: OnEpoch) -> Record | None:
    """Train what a job describes, from its checkpoint if it has one.

    Args:
        job: to be carried out.
        on_epoch: called after every epoch with all epochs so far.

    Returns:
        The record, whether trained now or found; None if another process is at it.
    """
    key, ranks = key_of(job), this_process()
    workspace = Workspace(Path(job.place.out))
    claim = workspace.claim(key) if ranks.is_first else nullcontext(False)
    with claim as is_mine:
        found = workspace.find(key) if is_mine else None
        is_ours, found = agree((is_mine, found))
        if not is_ours or found is not None:
            return found
        return _train(job, key, workspace, on_epoch)


def _train(job: Job, key: str, workspace: Workspace, on_epoch: OnEpoch) -> Record:
    config, place = job.config, job.place
    data = data_of(job)
    device = resolve_device(place.device, config.precision)
    is_first = this_process().is_first
    note = _EpochLog(job, key, workspace, environment.device_name(device))

    def report(history: list[EpochResult]) -> None:
        if is_first:
            note(history)
            on_epoch(history)

    logger = _logger(job, key, workspace) if is_first else None
    try:
        record = train(
            config,
            data,
            device,
            report,
            Execution(
                pipeline=place.pipeline,
                micro_batch=place.micro_batch,
                workers=place.workers,
                initial=None if job.weights is None else Path(job.weights),
                final=workspace.weights(key) if job.keep_weights else None,
                checkpoint=workspace.checkpoint(key),
                checkpoint_seconds=place.checkpoint_seconds,
                logger=logger,
                recipe=job.recipe,
                command=place.command,
            ),
        )
    finally:
        close(logger)
    if is_first:
        workspace.finish(record)
    return record


def _logger(job: Job, key: str, workspace: Workspace) -> Logger | None:
    config, place = job.config, job.place
    name = f"{job.recipe or config.model}, {config.arm}, seed {config.seed}"
    return make_logger(
        place.logger, workspace.logs, name, key, place.project, config.to_json()
    )


class _EpochLog:
    """Writes the epochs that are not written yet, each once."""

    def __init__(
        self, job: Job, key: str, workspace: Workspace, device_name: str
    ) -> None:
        self._file = workspace.epochs
        self._common: dict[str, Any] = {
            "key": key,
            "recipe": job.recipe,
            "recipe_hash": setting_hash(job.config.setting),
            "model": job.config.model,
            "arm": job.config.arm,
            "seed": job.config.seed,
            "device": device_name,
            "versions": environment.versions(),
            "commit": environment.git_commit(),
        }
        written, _ = self._file.read()
        self._written = {line.epoch for line in written if line.key == key}

    def __call__(self, history: list[EpochResult]) -> None:
        for number, epoch in enumerate(history, start=1):
            if number not in self._written:
                self._append(number, epoch)

    def _append(self, number: int, epoch: EpochResult) -> None:
        values: dict[str, Any] = {
            name: None if value is None else finite(value)
            for name, value in asdict(epoch).items()
        }
        line = EpochRecord(**self._common, epoch=number, **values)
        try:
            self._file.append(line)
        except OSError as error:
            raise LabError(
                f"the epoch could not be written to {self._file.path} "
                f"({describe_os_error(error)}): make room and give the same command "
                "again; it goes on from the last checkpoint"
            ) from error
        self._written.add(number)
