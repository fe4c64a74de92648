"""One run: a model, a method and a seed on the data, trained by Lightning's Trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from torch import nn

from trainact.lab import environment
from trainact.lab.checkpointing import Checkpointing
from trainact.lab.config import RunConfig, setting_hash
from trainact.lab.data import AnyData
from trainact.lab.data.batches import Share
from trainact.lab.data.normalise import find_statistics
from trainact.lab.data.photographs import one_line
from trainact.lab.data.pipeline import (
    PipelineName,
    choose_pipeline,
    make_batches,
    make_test_batches,
)
from trainact.lab.epoch_result import EpochResult, is_lost
from trainact.lab.errors import LabError
from trainact.lab.experiment_options import Pipeline
from trainact.lab.importing import is_the_users, what_happened
from trainact.lab.methods import code_of
from trainact.lab.prepare import prepare_model
from trainact.lab.quiet import OwnSigterm, interruptible, quiet_lightning
from trainact.lab.ranks import this_process
from trainact.lab.records import Record, finite
from trainact.lab.task import Task
from trainact.lab.trainer import deferral, make_trainer
from trainact.lab.weights import keep_weights

TEST_BATCH = 512  # images, where a training batch is smaller

OnEpoch = Callable[[list[EpochResult]], None]


@dataclass(frozen=True)
class Execution:
    """How a run is carried out; nothing of it is part of the experiment.

    Attributes:
        pipeline: ``auto``, ``resident`` or ``workers``.
        micro_batch: most images that a device takes at once, or None for its whole
            share of a batch.
        workers: processes that read images, or None for as many as there are cores.
        checkpoint: file to go on from where it exists, and to keep up to date.
        checkpoint_seconds: least time between two checkpoints.
        initial: file of the weights to begin with, or None.
        final: file to keep the trained weights in, or None.
        logger: Lightning's, or None.
        recipe: name for the record, or None.
        command: for the record, where it is not this process's own.
    """

    pipeline: Pipeline = "auto"
    micro_batch: int | None = None
    workers: int | None = None
    checkpoint: Path | None = None
    checkpoint_seconds: float = 0.0
    initial: Path | None = None
    final: Path | None = None
    logger: Logger | None = None
    recipe: str | None = None
    command: str | None = None


PLAIN = Execution()


def train(
    config: RunConfig,
    data: AnyData,
    device: torch.device,
    on_epoch: OnEpoch,
    execution: Execution = PLAIN,
) -> Record:
    """Train and test one model, together with the other processes if there are any.

    Args:
        config: what to run.
        data: on what.
        device: where.
        on_epoch: called after every epoch with all epochs so far.
        execution: how.

    Returns:
        The record of the run.
    """
    origin = environment.describe(device)
    origin["command"] = execution.command or origin["command"]
    if (code := code_of(config.method)) is not None:
        origin["versions"] = {**origin["versions"], config.method: code}
    model, layers = prepare_model(config, data, execution.initial)
    task = _make_task(model, config, data)
    pipeline = choose_pipeline(execution.pipeline, data, device)
    share = find_share(config, execution.micro_batch)
    keeper = Checkpointing(execution.checkpoint, execution.checkpoint_seconds, on_epoch)
    callbacks = [OwnSigterm(), *deferral(model, share.pieces), keeper]
    with quiet_lightning(), interruptible():
        trainer = make_trainer(
            config, device, callbacks, execution.logger, share.pieces
        )
        _fit(trainer, task, data, pipeline, share, execution)
    if execution.final is not None and trainer.is_global_zero:
        keep_weights(task.model, execution.final)
    history = task.history
    top5 = [epoch.top5 for epoch in history if epoch.top5 is not None]
    return Record(
        key=key_for(config, data),
        config=config,
        accuracy=tuple(round(epoch.accuracy, 6) for epoch in history),
        loss=tuple(finite(epoch.loss) for epoch in history),
        seconds=tuple(round(epoch.seconds, 4) for epoch in history),
        diverged=is_lost(history),
        layers=layers,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        data=data.fingerprint,
        top5=tuple(round(value, 6) for value in top5) or None,
        eval_seconds=tuple(round(epoch.eval_seconds, 4) for epoch in history),
        compile_seconds=round(sum(epoch.compile_seconds for epoch in history), 4),
        diverged_step=task.diverged_step,
        recipe=execution.recipe,
        recipe_hash=setting_hash(config.setting),
        pipeline=pipeline,
        num_devices=share.num_ranks,
        micro_batches=share.pieces,
        **origin,
    )


def key_for(config: RunConfig, data: AnyData) -> str:
    """Compute under which key the record of a run is found.

    Args:
        config: what to run.
        data: on what.

    Returns:
        The key.
    """
    return config.key(data.fingerprint["hash"], code_of(config.method))


def find_share(config: RunConfig, micro_batch: int | None) -> Share:
    """Choose which part of every batch this process takes, and in how many pieces.

    Args:
        config: with the size of a batch.
        micro_batch: most images that a device takes at once, or None for all.

    Returns:
        The share.
    """
    ranks = this_process()
    own = -(-config.batch_size // ranks.size)
    pieces = 1 if micro_batch is None else -(-own // micro_batch)
    return Share(ranks.rank, ranks.size, pieces)


def _make_task(model: nn.Module, config: RunConfig, data: AnyData) -> Task:
    if config.task == "detection":
        from trainact.lab.detection.task import DetectionTask

        return DetectionTask(model, config)
    from trainact.lab.classification import ClassificationTask

    statistics = find_statistics(config.normalise, data)
    return ClassificationTask(model, config, statistics, data.num_classes)


def _fit(
    trainer: Trainer,
    task: Task,
    data: AnyData,
    pipeline: PipelineName,
    share: Share,
    execution: Execution,
) -> None:
    config, device = task.config, trainer.strategy.root_device
    most = execution.micro_batch or config.batch_size
    size = most if config.task == "detection" else max(most, TEST_BATCH)
    workers = execution.workers
    task.batches = make_batches(config, data, device, pipeline, share, workers)
    checkpoint = execution.checkpoint
    goes_on = checkpoint is not None and checkpoint.exists()
    try:
        with one_line():
            trainer.fit(
                task,
                task.batches,
                make_test_batches(data, device, size, share, workers),
                ckpt_path=str(checkpoint) if goes_on else None,
            )
    except torch.OutOfMemoryError as error:
        raise LabError(
            f"{config.model} does not fit into the memory of {device} with "
            f"{-(-config.batch_size // (share.num_ranks * share.pieces))} images at "
            "once: give a smaller --micro-batch, which changes nothing else but batch "
            "norm's statistics"
        ) from error
    except (Exception, SystemExit) as error:
        if is_the_users(error) and not isinstance(error, LabError):
            raise LabError(f"{config.title}: {what_happened(error)}") from error
        if isinstance(error, LabError) or task.has_started or not goes_on:
            raise
        raise LabError(
            f"the checkpoint {checkpoint} is not of this run ({what_happened(error)}): "
            "remove it, and the run starts anew"
        ) from error
    history = task.history
    if len(history) < config.epochs and not is_lost(history):
        raise LabError(
            f"{config.model} with {config.arm} was stopped after epoch "
            f"{len(history)} of {config.epochs} and is not recorded: give the "
            "same command again"
        )
