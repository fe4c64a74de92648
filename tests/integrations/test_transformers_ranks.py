"""Transformers' Trainer and Accelerate's loop on two ranks are one process."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch.utils.data import DataLoader, Subset

import trainact
from tests.distributed.processes import run
from tests.integrations.images import distance, weights
from tests.integrations.test_transformers import (
    BATCH,
    NUM_IMAGES,
    DeferredTrainer,
    Digits,
    InOrder,
    arguments,
    by_hand,
    make_model,
)
from tests.tolerances import ORACLE_RTOL
from trainact.integrations.transformers import TrActCallback

CLIP = 0.2


def trainer(deferred: bool) -> torch.Tensor:
    """Two ranks with 8 images each, at once or in two micro-batches."""
    model = make_model()
    micro_batches = 2 if deferred else 1
    settings = arguments(
        Path(tempfile.mkdtemp()),
        per_device_train_batch_size=BATCH // 2 // micro_batches,
        gradient_accumulation_steps=micro_batches,
        max_grad_norm=CLIP,
        ddp_backend="gloo",
    )
    make = DeferredTrainer if deferred else InOrder
    callback = TrActCallback(sync=not deferred)
    make(model, settings, train_dataset=Digits(), callbacks=[callback]).train()
    return weights(model)


def accelerate() -> torch.Tensor:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = trainact.apply(make_model())
    share = Subset(Digits(), range(dist.get_rank(), NUM_IMAGES, 2))
    loader = DataLoader(share, BATCH // 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer = accelerator.prepare(model, optimizer)
    with trainact.deferred(model, optimizer) as step:
        for _ in range(2):
            for batch in loader:
                with accelerator.accumulate(model):
                    accelerator.backward(model(**batch).loss)
                    if accelerator.sync_gradients:
                        step.precondition()
                        accelerator.clip_grad_norm_(model.parameters(), CLIP)
                    optimizer.step()
                    optimizer.zero_grad()
    return weights(model)


def train_all() -> dict[str, Any]:
    """In one pair of processes, whose start takes longer than all of it."""
    warnings.filterwarnings("ignore", module=r"transformers|accelerate")
    os.environ |= {
        "RANK": str(dist.get_rank()),
        "LOCAL_RANK": str(dist.get_rank()),
        "WORLD_SIZE": str(dist.get_world_size()),
        "ACCELERATE_USE_CPU": "true",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "0",
    }
    return {
        "sync": trainer(False),
        "deferred": trainer(True),
        "accelerate": accelerate(),
    }


def test_two_ranks_are_one_process() -> None:
    truth = by_hand([BATCH], CLIP)
    for found in run(2, train_all):
        for way, vector in found.items():
            model = make_model()
            torch.nn.utils.vector_to_parameters(vector, model.parameters())
            assert distance(model, truth) < ORACLE_RTOL, way
