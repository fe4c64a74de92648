"""SIGKILL to real processes, again and again: the end is bit for bit the same."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.lab import forked
from tests.lab.conftest import CONFIG
from trainact.lab.jobs import Job, Place, key_of
from trainact.lab.records import Record
from trainact.lab.workspace import Workspace

# 5 steps an epoch, the last one of a smaller batch.
TASK = replace(
    CONFIG,
    model="small-vit",
    method="tract",
    lam=0.1,
    epochs=60,  # all kills come before the end, however late they are
    limit=300,
    lr=0.01,
    augment="crop-flip",
    mixup=0.8,
    cutmix=1.0,
)
TIMES = ("seconds", "eval_seconds", "compile_seconds", "started")


def make_job(out: Path, micro_batch: int | None = None) -> Job:
    place = Place(
        out=str(out), device="cpu", checkpoint_seconds=0.0, micro_batch=micro_batch
    )
    return Job(TASK, None, place, keep_weights=True)


def end_of(job: Job) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    workspace = Workspace(Path(job.place.out))
    record = workspace.find(key_of(job))
    assert isinstance(record, Record)
    outcome = {k: v for k, v in asdict(record).items() if k not in TIMES}
    return outcome, torch.load(workspace.weights(record.key))


def train(job: Job, num_ranks: int, log: Path) -> None:
    assert forked.finish(forked.start(job.to_json(), num_ranks, log)) == [0] * num_ranks


def kill_one(
    job: Job, processes: list[BaseProcess], generator: np.random.Generator
) -> bool:
    """Kill any of the processes some checkpoints later; False if they were quicker."""
    path = Workspace(Path(job.place.out)).checkpoint(key_of(job))
    seen, last = 0, None
    enough = generator.integers(2, 8)
    while seen < enough:
        if any(process.exitcode is not None for process in processes):
            return False
        time.sleep(0.001)
        now = path.stat().st_mtime_ns if path.exists() else None
        seen, last = seen + (now != last), now
    time.sleep(generator.uniform(0, 0.05))
    victim = processes[generator.integers(len(processes))]
    victim.kill()
    victim.join()
    return victim.exitcode == -9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_ranks", "micro_batch", "kills"), [(1, None, 20), (2, 16, 5)]
)
def test_killed_at_any_moment(
    tmp_path: Path, num_ranks: int, micro_batch: int | None, kills: int
) -> None:
    """One of the processes at a time, at random moments, mostly inside epochs."""
    log = tmp_path / "errors"
    whole = make_job(tmp_path / "whole", micro_batch)
    train(whole, num_ranks, log)
    job = make_job(tmp_path / "killed", micro_batch)
    generator = np.random.default_rng(num_ranks)
    for _ in range(kills):
        processes = forked.start(job.to_json(), num_ranks, log)
        killed = kill_one(job, processes, generator)
        forked.end(processes)
        assert killed, log.read_text() if log.exists() else "it was not killed in time"
    train(job, num_ranks, log)
    expected, found = end_of(whole), end_of(job)
    assert found[0] == expected[0]
    for name, value in expected[1].items():
        assert torch.equal(found[1][name], value), name
    epochs, warnings = Workspace(tmp_path / "killed").epochs.read()
    assert warnings == []
    assert [epoch.epoch for epoch in epochs] == list(range(1, TASK.epochs + 1))
    assert len(Workspace(tmp_path / "killed").records.read()[0]) == 1
