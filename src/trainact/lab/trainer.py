"""Lightning's Trainer for a run, on one device or on many."""

from __future__ import annotations

from typing import Any

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from torch import nn

from trainact.api import tract_layers
from trainact.integrations.lightning import TrActCallback
from trainact.lab.checkpointing import SafeCheckpointIO
from trainact.lab.config import RunConfig
from trainact.lab.errors import LabError
from trainact.lab.ranks import this_process


def make_trainer(
    config: RunConfig,
    device: torch.device,
    callbacks: list[Callback],
    logger: Logger | None = None,
    pieces: int = 1,
) -> Trainer:
    """Build Lightning's Trainer, without output of its own.

    With several processes gradients are averaged by DistributedDataParallel, and on
    GPUs batch norm has the statistics of all processes: a batch is the recipe's,
    however many devices share it.

    Args:
        config: of the run.
        device: where this process trains.
        callbacks: such as the one that keeps checkpoints.
        logger: Lightning's, or None.
        pieces: micro-batches of a step.

    Returns:
        The trainer.
    """
    on_gpu = device.type == "cuda"
    precision: Any = config.precision
    ranks = this_process()
    # Without it Lightning would take a cluster's tasks for processes of this run.
    cluster: ClusterEnvironment = LightningEnvironment()
    devices: Any = [device.index or 0] if on_gpu else 1
    if ranks.size > 1:
        cluster, devices = TorchElasticEnvironment(), ranks.local_size
    return Trainer(
        accelerator="gpu" if on_gpu else device.type,
        strategy="ddp" if ranks.size > 1 else "auto",
        devices=devices,
        num_nodes=ranks.num_nodes,
        precision=precision,
        max_epochs=config.epochs,
        accumulate_grad_batches=pieces,
        num_sanity_val_steps=0,
        # Otherwise Lightning would keep checkpoints of its own, where the user is.
        enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),
        logger=logger or False,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        sync_batchnorm=on_gpu and ranks.size > 1,
        plugins=[cluster, SafeCheckpointIO()],
    )


def deferral(model: nn.Module, pieces: int) -> list[Callback]:
    """Make TrAct see a step's micro-batches as one batch.

    Args:
        model: under TrAct or not.
        pieces: micro-batches of a step.

    Returns:
        The callback that does it, where there is something to do.

    Raises:
        LabError: for statistics that are estimated from call to call.
    """
    layers = list(tract_layers(model).values())
    if pieces == 1 or not layers:
        return []
    first = layers[0]
    if first.estimate is not None:
        raise LabError(
            "a method with estimated statistics cannot see micro-batches as one batch: "
            "leave --micro-batch out"
        )
    return [TrActCallback(first.lam, relative=first.relative, deferred=True)]
