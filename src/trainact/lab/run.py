"""One run: a model, a method and a seed on the data, trained by Lightning's Trainer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    SequentialSampler,
    TensorDataset,
)

from trainact.lab import environment
from trainact.lab.config import RunConfig
from trainact.lab.data import ImageData
from trainact.lab.errors import LabError, first_line
from trainact.lab.methods import MethodSettings, find_method
from trainact.lab.models import build_model
from trainact.lab.quiet import interruptible, quiet_lightning
from trainact.lab.records import Record
from trainact.lab.task import Batch, ClassificationTask, EpochResult, Normalise


def train(
    config: RunConfig,
    data: ImageData,
    device: torch.device,
    on_epoch: Callable[[EpochResult], None],
) -> Record:
    """Train and test one model.

    Args:
        config: what to run.
        data: on what.
        device: where.
        on_epoch: called after every epoch.

    Returns:
        The record of the run.
    """
    setting = environment.describe(device)
    model, layers = prepare_model(config, data)
    task = ClassificationTask(
        model, config, data.statistics, data.num_classes, on_epoch
    )
    history = _fit(task, data, device)
    return Record(
        key=config.key(str(data.fingerprint["hash"])),
        config=config,
        accuracy=tuple(round(epoch.accuracy, 6) for epoch in history),
        loss=tuple(_finite(epoch.loss) for epoch in history),
        seconds=tuple(round(epoch.seconds, 4) for epoch in history),
        diverged=any(not math.isfinite(epoch.loss) for epoch in history),
        layers=layers,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        data=data.fingerprint,
        **setting,
    )


def _fit(
    task: ClassificationTask, data: ImageData, device: torch.device
) -> list[EpochResult]:
    config = task.config
    try:
        with quiet_lightning(), interruptible():
            make_trainer(config, device).fit(
                task,
                train_batches(config, data, device),
                test_batches(config, data, device),
            )
    except torch.OutOfMemoryError as error:
        raise LabError(
            f"{config.model} does not fit into the memory of {device} with batches of "
            f"{config.batch_size}: give a smaller --batch-size"
        ) from error
    history = task.history
    lost = bool(history) and not math.isfinite(history[-1].loss)
    if len(history) < config.epochs and not lost:
        raise LabError(
            f"{config.model} with {config.arm} was stopped after epoch "
            f"{len(history)} of {config.epochs} and is not recorded: give the "
            "same command again"
        )
    return history


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
    normalise = Normalise(*data.statistics)
    settings = MethodSettings(
        lam=config.lam,
        layer=config.layer,
        example_input=normalise(data.train_images[:1]),
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
    return model, changed


def _layer_hint(error: ValueError) -> str:
    return " (name it with --layer)" if "layer" in str(error) else ""


def make_trainer(config: RunConfig, device: torch.device) -> Trainer:
    """Build Lightning's Trainer for one device, without files or output of its own.

    Args:
        config: of the run.
        device: where to train.

    Returns:
        The trainer.
    """
    on_gpu = device.type == "cuda"
    return Trainer(
        accelerator="gpu" if on_gpu else device.type,
        devices=[device.index or 0] if on_gpu else 1,
        precision=config.precision,  # pyright: ignore[reportArgumentType]
        max_epochs=config.epochs,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[LightningEnvironment()],  # one process, also inside a cluster's job
    )


def train_batches(
    config: RunConfig, data: ImageData, device: torch.device
) -> DataLoader[Batch]:
    """Batches of training images in an order drawn from the seed alone.

    Args:
        config: of the run.
        data: in memory.
        device: the images are moved there once.

    Returns:
        A loader whose every batch is one index operation; no image is left out.
    """
    generator = torch.Generator().manual_seed(config.seed)
    order = RandomSampler(range(len(data.train_labels)), generator=generator)
    dataset = TensorDataset(data.train_images.to(device), data.train_labels.to(device))
    return _loader(dataset, order, config.batch_size)


def test_batches(
    config: RunConfig, data: ImageData, device: torch.device
) -> DataLoader[Batch]:
    """Batches of all test images.

    Args:
        config: of the run.
        data: in memory.
        device: the images are moved there once.

    Returns:
        A loader.
    """
    order = SequentialSampler(range(len(data.test_labels)))
    dataset = TensorDataset(data.test_images.to(device), data.test_labels.to(device))
    return _loader(dataset, order, config.batch_size)


def _loader(
    dataset: TensorDataset, order: Sampler[int], batch_size: int
) -> DataLoader[Batch]:
    batches = BatchSampler(order, batch_size, drop_last=False)
    loader: Any = DataLoader(dataset, sampler=batches, batch_size=None)
    return loader


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
