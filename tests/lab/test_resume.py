"""A run that was stopped goes on as if nothing had happened, and loses nothing."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from tests.lab.conftest import CONFIG
from trainact.lab import models
from trainact.lab import run as run_module
from trainact.lab.config import RunConfig
from trainact.lab.epoch_result import EpochResult
from trainact.lab.errors import LabError
from trainact.lab.jobs import Job, Place, carry_out, key_of
from trainact.lab.records import Record
from trainact.lab.workspace import Workspace

TIMES = ("seconds", "eval_seconds", "compile_seconds", "started", "command")
ARMS = (("vanilla", None, "sgd"), ("tract", 0.1, "adam"), ("tract+sgd", 0.1, "adam"))
TASK = replace(
    CONFIG,
    model="dropping-cnn",
    epochs=4,
    limit=200,
    lr=0.01,
    augment="crop-flip",
)


def dropping_cnn(_: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Batch norm keeps running values, dropout draws numbers."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(8 * 64, num_classes),
    )


@pytest.fixture(autouse=True)
def _model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.BUILT_IN, "dropping-cnn", dropping_cnn)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The models that were trained, in order."""
    seen: list[nn.Module] = []
    prepare = run_module.prepare_model

    def spy(*arguments: Any) -> tuple[nn.Module, tuple[str, ...]]:
        prepared = prepare(*arguments)
        seen.append(prepared[0])
        return prepared

    monkeypatch.setattr(run_module, "prepare_model", spy)
    return seen


def make_job(out: Path, config: RunConfig = TASK, **place: Any) -> Job:
    settings: dict[str, Any] = {"checkpoint_seconds": 0.0, "device": "cpu", **place}
    return Job(config, None, Place(out=str(out), **settings))


def outcome_of(record: Record | None) -> dict[str, Any]:
    assert record is not None
    return {k: v for k, v in asdict(record).items() if k not in TIMES}


def ignore(_: list[EpochResult]) -> None:
    pass


def stop_after(epoch: int) -> Callable[[list[EpochResult]], None]:
    def stop(history: list[EpochResult]) -> None:
        if len(history) == epoch:
            raise KeyboardInterrupt

    return stop


def assert_same_weights(first: nn.Module, second: nn.Module) -> None:
    expected, found = first.state_dict(), second.state_dict()
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


@pytest.mark.parametrize("pipeline", ["resident", "workers"])
@pytest.mark.parametrize(("method", "lam", "optimizer"), ARMS)
def test_stopped_after_any_epoch_it_ends_bit_for_bit_alike(
    tmp_path: Path,
    trained: list[nn.Module],
    method: str,
    lam: float | None,
    optimizer: str,
    pipeline: str,
) -> None:
    config = replace(TASK, method=method, lam=lam, optimizer=optimizer)
    whole = carry_out(make_job(tmp_path / "whole", config, pipeline=pipeline), ignore)
    job = make_job(tmp_path / "stopped", config, pipeline=pipeline)
    stops = (1, 2, 3) if pipeline == "resident" else (2,)
    for epoch in stops:
        torch.rand(epoch)  # what was drawn before must not matter
        with pytest.raises(KeyboardInterrupt):
            carry_out(job, stop_after(epoch))
    stopped = carry_out(job, ignore)
    assert outcome_of(stopped) == outcome_of(whole)
    assert len(trained) == 2 + len(stops)
    assert_same_weights(trained[0], trained[-1])
    workspace = Workspace(tmp_path / "stopped")
    assert not workspace.checkpoint(key_of(job)).exists(), "not needed any more"
    epochs, warnings = workspace.epochs.read()
    assert warnings == []
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3, 4]
    assert whole is not None
    assert tuple(epoch.accuracy for epoch in epochs) == whole.accuracy
    assert tuple(epoch.loss for epoch in epochs) == whole.loss


def test_images_read_in_the_process_that_trains_give_the_same(tmp_path: Path) -> None:
    """Their augmentation draws from the generators that dropout draws from."""
    without, with_one = (
        carry_out(
            make_job(tmp_path / str(workers), pipeline="workers", workers=workers),
            ignore,
        )
        for workers in (0, 1)
    )
    assert outcome_of(without) == outcome_of(with_one)


def test_without_a_checkpoint_it_begins_again_with_the_same_end(tmp_path: Path) -> None:
    whole = carry_out(make_job(tmp_path / "whole"), ignore)
    job = make_job(tmp_path / "stopped", checkpoint_seconds=1e9)
    with pytest.raises(KeyboardInterrupt):
        carry_out(job, stop_after(3))
    assert not Workspace(tmp_path / "stopped").checkpoint(key_of(job)).exists()
    assert outcome_of(carry_out(job, ignore)) == outcome_of(whole)
    epochs, _ = Workspace(tmp_path / "stopped").epochs.read()
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3, 4], "none written twice"


def test_a_recorded_run_is_not_trained_again(
    tmp_path: Path, trained: list[nn.Module]
) -> None:
    first = carry_out(make_job(tmp_path), ignore)
    assert carry_out(make_job(tmp_path), ignore) == first
    assert len(trained) == 1


CLAIM = """
import sys
from pathlib import Path
from trainact.lab.workspace import Workspace
with Workspace(Path(sys.argv[1])).claim(sys.argv[2]) as mine:
    print(mine, flush=True)
    sys.stdin.read()
"""


def test_one_process_at_a_time(tmp_path: Path, trained: list[nn.Module]) -> None:
    job = make_job(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", CLAIM, str(tmp_path), key_of(job)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        assert carry_out(job, ignore) is None
        assert trained == []
        process.kill()
    assert carry_out(job, ignore) is not None


def test_a_full_disk_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = carry_out(make_job(tmp_path / "whole"), ignore)
    job = make_job(tmp_path / "full")
    path = Workspace(tmp_path / "full").checkpoint(key_of(job))
    save = Trainer.save_checkpoint

    def refuse(self: Trainer, filepath: Path) -> None:
        if path.exists():
            filepath.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(self, filepath)

    monkeypatch.setattr(Trainer, "save_checkpoint", refuse)
    with pytest.raises(LabError, match=r"No space left on device.*make room"):
        carry_out(job, ignore)
    assert torch.load(path, weights_only=False)["epoch"] == 0
    monkeypatch.undo()
    monkeypatch.setitem(models.BUILT_IN, "dropping-cnn", dropping_cnn)
    assert outcome_of(carry_out(job, ignore)) == outcome_of(whole)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        carry_out(job, stop_after(2))
    path = Workspace(tmp_path).checkpoint(key_of(job))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(LabError, match=rf"{path.name} \(it is damaged.*remove it"):
        carry_out(job, ignore)


def without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda values: values.pop(name)


@pytest.mark.parametrize(
    "change",
    [
        dict.clear,
        *map(without, ("pytorch-lightning_version", "history", "loops")),
        lambda values: values.update(state_dict={}),
        lambda values: values.update(optimizer_states=[]),
        lambda values: values.update(optimizer_states=[{"state": 3}]),
        lambda values: values.update(history=[{"accuracy": 1.0}]),
        lambda values: values["config"].update(seed=1),
        lambda values: values.update(more=os.system),
    ],
)
def test_a_whole_file_that_is_no_checkpoint_of_the_run(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    job = make_job(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        carry_out(job, stop_after(2))
    workspace = Workspace(tmp_path)
    path = workspace.checkpoint(key_of(job))
    values = torch.load(path, weights_only=True)
    change(values)
    torch.save(values, path)
    before = path.read_bytes()
    with pytest.raises(LabError, match=f"{path.name}.*remove it") as error:
        carry_out(job, ignore)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before
    assert workspace.records.read() == ([], [])


@pytest.mark.parametrize("step", [1, 3, 6])
def test_a_lost_run_ends_at_the_step_and_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    class Losing(nn.Linear):
        calls = 0

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            logits = super().forward(input)
            if not self.training:
                return logits
            self.calls += 1
            return logits * torch.nan if self.calls == step else logits

    def losing(*_: Any) -> nn.Module:
        return nn.Sequential(nn.Flatten(), Losing(64, 10))

    monkeypatch.setitem(models.BUILT_IN, "losing", losing)
    record = carry_out(make_job(tmp_path, replace(TASK, model="losing")), ignore)
    assert record is not None
    assert record.diverged
    assert record.diverged_step == step
    per_epoch = -(-200 // TASK.batch_size)
    assert len(record.loss) == 1 + (step - 1) // per_epoch
    assert record.loss[-1] is None
    assert all(loss is not None for loss in record.loss[:-1])
    assert len(record.accuracy) == len(record.loss)
    assert Workspace(tmp_path).find(record.key) == record
