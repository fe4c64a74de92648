"""One run: a model, a method and a seed on the data, trained by Lightning's Trainer."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from torch import nn

from trainact.lab import environment
from trainact.lab.after_epoch import AfterEpoch
from trainact.lab.config import RunConfig, setting_hash
from trainact.lab.data import ImageData
from trainact.lab.data.normalise import Normalise, find_statistics
from trainact.lab.data.pipeline import (
    PipelineName,
    choose_pipeline,
    make_batches,
    test_batches,
)
from trainact.lab.errors import LabError, first_line
from trainact.lab.experiment_options import Pipeline
from trainact.lab.methods import MethodSettings, find_method
from trainact.lab.models import build_model
from trainact.lab.quiet import interruptible, quiet_lightning
from trainact.lab.records import Record, finite
from trainact.lab.task import ClassificationTask, EpochResult, is_lost

TEST_BATCH = 512  # images, where a training batch is smaller

OnEpoch = Callable[[list[EpochResult]], None]


@dataclass(frozen=True)
class Execution:
    """How a run is carried out; nothing of it is part of the experiment.

    Attributes:
        pipeline: ``auto``, ``resident`` or ``workers``.
        checkpoint: file to go on from where it exists, and to keep up to date.
        checkpoint_seconds: least time between two checkpoints.
        logger: Lightning's, or None.
        recipe: name for the record, or None.
        command: for the record, where it is not this process's own.
    """

    pipeline: Pipeline = "auto"
    checkpoint: Path | None = None
    checkpoint_seconds: float = 0.0
    logger: Logger | None = None
    recipe: str | None = None
    command: str | None = None


PLAIN = Execution()


def train(
    config: RunConfig,
    data: ImageData,
    device: torch.device,
    on_epoch: OnEpoch,
    execution: Execution = PLAIN,
) -> Record:
    """Train and test one model.

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
    model, layers = prepare_model(config, data)
    statistics = find_statistics(config.normalise, data)
    task = ClassificationTask(model, config, statistics, data.num_classes)
    pipeline = choose_pipeline(execution.pipeline, data, device)
    after = AfterEpoch(execution.checkpoint, execution.checkpoint_seconds, on_epoch)
    with quiet_lightning(), interruptible():
        trainer = make_trainer(config, device, after, execution.logger)
        _fit(trainer, task, data, pipeline, execution.checkpoint)
    history = task.history
    top5 = [epoch.top5 for epoch in history if epoch.top5 is not None]
    return Record(
        key=config.key(str(data.fingerprint["hash"])),
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
        **origin,
    )


def _fit(
    trainer: Trainer,
    task: ClassificationTask,
    data: ImageData,
    pipeline: PipelineName,
    checkpoint: Path | None,
) -> None:
    config, device = task.config, trainer.strategy.root_device
    try:
        trainer.fit(
            task,
            make_batches(config, data, device, pipeline),
            test_batches(data, device, max(config.batch_size, TEST_BATCH)),
            ckpt_path=_whole(checkpoint),
        )
    except torch.OutOfMemoryError as error:
        raise LabError(
            f"{config.model} does not fit into the memory of {device} with batches of "
            f"{config.batch_size}: give a smaller --batch-size"
        ) from error
    history = task.history
    if len(history) < config.epochs and not is_lost(history):
        raise LabError(
            f"{config.model} with {config.arm} was stopped after epoch "
            f"{len(history)} of {config.epochs} and is not recorded: give the "
            "same command again"
        )


def _whole(checkpoint: Path | None) -> str | None:
    """The checkpoint to go on from, if there is one."""
    if checkpoint is None or not checkpoint.exists():
        return None
    if not zipfile.is_zipfile(checkpoint):
        raise LabError(
            f"the checkpoint {checkpoint} is damaged: remove it, and the run starts "
            "from its beginning"
        )
    return str(checkpoint)


def prepare_model(
    config: RunConfig, data: ImageData
) -> tuple[nn.Module, tuple[str, ...]]:
    """Build the model of a run and apply its method.

    The weights depend on the seed and the model alone, and torch's generator is left
    in a state that depends on the seed alone: whatever a method draws, runs of one
    seed stay paired.

    Args:
        config: of the run.
        data: whose shape and classes the model is built for.

    Returns:
        The model, and the names of the layers that the method changed.

    Raises:
        LabError: if the model does not fit the data or the method not the model.
    """
    torch.manual_seed(config.seed)
    model = build_model(config.model, data.image_shape, data.num_classes)
    types = {name: type(module) for name, module in model.named_modules()}
    normalise = Normalise(*find_statistics(config.normalise, data))
    settings = MethodSettings(
        lam=config.lam,
        layer=config.layer,
        example_input=normalise(data.train_images[:1]),
        images=lambda count: normalise(data.sample(count)),
    )
    try:
        model = find_method(config.method).convert(model, settings)
    except ValueError as error:
        raise LabError(
            f"{config.arm} cannot be applied to {config.model}: {first_line(error)}"
            + _layer_hint(error)
        ) from error
    torch.manual_seed(config.seed)
    changed = tuple(
        name
        for name, module in model.named_modules()
        if type(module) is not types.get(name)
    )
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if config.compile:
        model.compile()
    return model, changed


def _layer_hint(error: ValueError) -> str:
    return " (name it with --layer)" if "layer" in str(error) else ""


def make_trainer(
    config: RunConfig,
    device: torch.device,
    after_epoch: Callback,
    logger: Logger | None = None,
) -> Trainer:
    """Build Lightning's Trainer for one device, without output of its own.

    Args:
        config: of the run.
        device: where to train.
        after_epoch: keeps checkpoints and reports epochs.
        logger: Lightning's, or None.

    Returns:
        The trainer.
    """
    on_gpu = device.type == "cuda"
    precision: Any = config.precision
    return Trainer(
        accelerator="gpu" if on_gpu else device.type,
        devices=[device.index or 0] if on_gpu else 1,
        precision=precision,
        max_epochs=config.epochs,
        num_sanity_val_steps=0,
        logger=logger or False,
        callbacks=[after_epoch],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        plugins=[LightningEnvironment()],  # one process, also inside a cluster's job
    )
