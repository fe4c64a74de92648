"""Damaged and missing photographs, a full disk and a lost loss, inside an epoch."""

from __future__ import annotations

import gc
import multiprocessing
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from tests.lab import forked
from tests.lab.conftest import CONFIG
from tests.lab.photographic import draw, encode, make_shards, write_photographs
from trainact.lab.config import RunConfig
from trainact.lab.data.images import SPLIT_SEED
from trainact.lab.data.photographs import ShardSource, shards
from trainact.lab.data.pipeline import make_batches
from trainact.lab.epoch_result import EpochResult
from trainact.lab.errors import LabError
from trainact.lab.jobs import Job, Place, carry_out, data_of, key_of
from trainact.lab.methods import Method, MethodSettings
from trainact.lab.ranks import this_process
from trainact.lab.workspace import Workspace

# 5 steps an epoch, the last one of 2 images.
TASK = replace(
    CONFIG,
    model="small-vit",
    method="tract",
    lam=0.1,
    lr=0.01,
    epochs=2,
    batch_size=4,
    image_size=32,
    augment="imagenet",
    normalise="imagenet",
)
STEPS = 5
TIMES = ("seconds", "eval_seconds", "compile_seconds", "started", "command")
Repair = Callable[[], object]


@pytest.fixture(params=["folder", "shards"])
def task(request: pytest.FixtureRequest, tmp_path: Path) -> RunConfig:
    folder = write_photographs(tmp_path / "photographs")
    if request.param == "folder":
        return replace(TASK, data=f"imagefolder:{folder}")
    assert make_shards(folder, tmp_path / "shards") == 0
    assert len(list((tmp_path / "shards").glob("train*.tar"))) > 4
    return replace(TASK, data=f"webdataset:{tmp_path / 'shards'}")


def make_job(out: Path, config: RunConfig, **place: Any) -> Job:
    settings = {"checkpoint_seconds": 0.0, "device": "cpu", "workers": 1, **place}
    return Job(config, None, Place(out=str(out), **settings), keep_weights=True)


def ignore(_: list[EpochResult]) -> None:
    pass


def end_of(job: Job) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The only record, without times, and the trained weights."""
    workspace = Workspace(Path(job.place.out))
    records, warnings = workspace.records.read()
    assert warnings == []
    (record,) = records
    outcome = {k: v for k, v in asdict(record).items() if k not in TIMES}
    assert not workspace.checkpoint(record.key).exists()
    epochs, _ = workspace.epochs.read()
    assert [epoch.epoch for epoch in epochs] == list(range(1, len(record.loss) + 1))
    return outcome, torch.load(workspace.weights(record.key))


def assert_same_end(found: Job, expected: Job) -> None:
    outcomes, weights = zip(end_of(found), end_of(expected), strict=True)
    assert outcomes[0] == outcomes[1]
    torch.testing.assert_close(weights[0], weights[1], atol=0, rtol=0)


def assert_close_end(found: Job, expected: Job) -> None:
    outcomes, weights = zip(end_of(found), end_of(expected), strict=True)
    assert outcomes[0]["accuracy"] == outcomes[1]["accuracy"]
    assert outcomes[0]["loss"] == pytest.approx(outcomes[1]["loss"], abs=2e-6)
    torch.testing.assert_close(weights[0], weights[1], atol=1e-5, rtol=0)


def step_of_checkpoint(job: Job) -> int:
    path = Workspace(Path(job.place.out)).checkpoint(key_of(job))
    return torch.load(path, weights_only=False)["global_step"]


def train_on(num_ranks: int, job: Job) -> list[int | None]:
    log = Path(job.place.out).with_suffix(".log")
    log.write_text("")
    codes = forked.finish(forked.start(job.to_json(), num_ranks, log))
    assert any(codes) == bool(log.read_text()), log.read_text()
    return codes


def zero(path: Path, offset: int = 0, size: int | None = None) -> Repair:
    before = path.read_bytes()
    size = len(before) if size is None else size
    path.write_bytes(before[:offset] + bytes(size) + before[offset + size :])
    return partial(path.write_bytes, before)


def remove(path: Path) -> Repair:
    away = path.with_suffix(".away")
    path.rename(away)
    return partial(away.rename, path)


def break_file(job: Job, damage: str, least: int) -> tuple[Path, int, Repair]:
    """Damage what the first epoch needs after so many images, and no probe before it.

    Returns the file, after how many images it is needed, and what puts it right.
    """
    data: Any = data_of(job)
    source = data.train
    batches = make_batches(job.config, data, torch.device("cpu"), "workers")
    order = batches.draw_order()[0].tolist()
    sampled = int(source.order(torch.Generator().manual_seed(SPLIT_SEED))[0])
    unit: Callable[[int], int] = (
        source._shard_of
        if isinstance(source, ShardSource) and damage == "missing"
        else lambda index: index
    )
    needed = {unit(index): place for place, index in reversed([*enumerate(order)])}
    needed.pop(unit(sampled))
    first = min(place for place in needed.values() if place >= least)
    index = order[first]
    if not isinstance(source, ShardSource):
        path = Path(source.name(index))
        return path, first, (zero if damage == "corrupt" else remove)(path)
    path = Path(source._places[source._shard_of(index)])
    if damage == "missing":
        return path, first, remove(path)
    offset, size = int(source._offsets[index]), int(source._sizes[index])
    return path, first, zero(path, offset, size)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["corrupt", "missing"])
def test_what_is_put_right_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: RunConfig, damage: str
) -> None:
    monkeypatch.setattr(shards, "WINDOW", 2)  # several in an epoch
    whole, job = make_job(tmp_path / "whole", task), make_job(tmp_path / "out", task)
    carry_out(whole, ignore)  # the files are listed by now
    saved: list[int] = []
    save = Trainer.save_checkpoint

    def note(self: Trainer, filepath: Path) -> None:
        saved.append(self.global_step)
        save(self, filepath)

    monkeypatch.setattr(Trainer, "save_checkpoint", note)
    path, first, repair = break_file(job, damage, least=6)
    for _ in range(2):
        with pytest.raises(LabError) as error:
            carry_out(job, ignore)
        message = str(error.value)
        assert "\n" not in message
        assert message.startswith("cannot read ")
        assert str(path) in message
        assert ("--corrupt skip" in message) == (damage == "corrupt")
    last = first // TASK.batch_size
    assert 1 <= step_of_checkpoint(job) == last < STEPS
    workspace = Workspace(tmp_path / "out")
    assert workspace.records.read() == workspace.epochs.read() == ([], [])
    assert not workspace.weights(key_of(job)).exists()
    repair()
    carry_out(job, ignore)
    assert saved == list(range(1, TASK.epochs * STEPS + 1)), "no step twice"
    assert_same_end(job, whole)


def test_skipping_on_one_process_and_on_two(tmp_path: Path, task: RunConfig) -> None:
    one = make_job(tmp_path / "one", task, corrupt="skip")
    two = make_job(tmp_path / "two", task, corrupt="skip")
    whole = make_job(tmp_path / "whole", task)
    carry_out(whole, ignore)
    break_file(one, "corrupt", least=6)
    carry_out(one, ignore)
    assert train_on(2, two) == [0, 0]
    assert_close_end(two, one)
    assert end_of(one)[0]["loss"] != end_of(whole)[0]["loss"]


def test_a_full_disk_inside_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: RunConfig
) -> None:
    whole, job = make_job(tmp_path / "whole", task), make_job(tmp_path / "out", task)
    carry_out(whole, ignore)
    save = Trainer.save_checkpoint

    def save_some(self: Trainer, filepath: Path) -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        if self.global_step == STEPS + 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            save(self, filepath)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(Trainer, "save_checkpoint", save_some)
    with pytest.raises(LabError, match=r"^.*\(File too large\): make room .*$"):
        carry_out(job, ignore)
    assert step_of_checkpoint(job) == STEPS + 1
    assert Workspace(tmp_path / "out").records.read()[0] == []
    monkeypatch.setattr(Trainer, "save_checkpoint", save)
    carry_out(job, ignore)
    assert_same_end(job, whole)


# A loader whose workers are gone complains once more when it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_killed_data_worker_is_one_line_wherever_the_run_is(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path / "photographs")
    job = make_job(tmp_path / "out", replace(TASK, data=f"imagefolder:{folder}"))

    def kill_all(_: list[EpochResult]) -> None:
        for process in multiprocessing.active_children():
            process.kill()
        time.sleep(10)  # until the system has said that they are gone

    with pytest.raises(LabError, match=r"^a process that reads images was ended .*$"):
        carry_out(job, kill_all)
    gc.collect()
    assert step_of_checkpoint(job) == STEPS
    whole = make_job(tmp_path / "whole", job.config)
    for each in (job, whole):
        carry_out(each, ignore)
    assert_same_end(job, whole)


@pytest.fixture
def many(tmp_path: Path) -> RunConfig:
    """80 images in steps of 2: so many that two processes save inside an epoch."""
    root = tmp_path / "many"
    for number in range(84):
        part = root / ("train" if number < 80 else "val") / f"{number % 2}"
        part.mkdir(parents=True, exist_ok=True)
        (part / f"{number:02}.jpg").write_bytes(encode(draw(number, (32, 32))))
    return replace(TASK, data=f"imagefolder:{root}", batch_size=2, epochs=1)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 1), (1, 2)])
def test_stopped_on_some_processes_and_ended_on_others(
    tmp_path: Path, many: RunConfig, before: int, after: int
) -> None:
    whole, job = make_job(tmp_path / "whole", many), make_job(tmp_path / "out", many)
    assert train_on(before, whole) == before * [0]
    path, first, repair = break_file(job, "corrupt", least=66)
    assert all(train_on(before, job)), "no process goes on alone"
    message = f"UnreadableImageError: cannot read image {path} "
    assert message in (tmp_path / "out.log").read_text()
    assert step_of_checkpoint(job) == (32 if before == 2 else first // 2)
    repair()
    break_file(job, "corrupt", least=0)  # which is not needed any more
    assert train_on(after, job) == after * [0]
    (assert_same_end if before == after else assert_close_end)(job, whole)


def test_another_number_of_pieces_inside_an_epoch(
    tmp_path: Path, many: RunConfig
) -> None:
    whole, job = make_job(tmp_path / "whole", many), make_job(tmp_path / "out", many)
    carry_out(whole, ignore)
    _, _, repair = break_file(job, "corrupt", least=9)
    with pytest.raises(LabError):
        carry_out(job, ignore)
    repair()
    in_two = make_job(tmp_path / "out", many, micro_batch=1)
    with pytest.raises(LabError, match=r"^.* give --devices and --micro-batch as bef"):
        carry_out(in_two, ignore)
    carry_out(job, ignore)
    assert_same_end(job, whole)


def losing(step: int) -> Method:
    """The second of two processes loses its loss in a step, its weights in the next."""

    def convert(model: nn.Module, settings: MethodSettings) -> nn.Module:
        del settings
        calls: list[int] = []

        def lose(module: nn.Module, _: object, logits_BK: Tensor) -> Tensor:
            calls.extend([1] * module.training)
            is_lost = len(calls) == step and this_process().rank == 1
            return logits_BK * torch.nan if is_lost else logits_BK

        model.register_forward_hook(lose)
        return model

    return Method("losing", uses_lam=False, convert=convert)


LOSING_IN_3, LOSING_IN_10 = losing(3), losing(10)


@pytest.mark.parametrize("step", [3, 10])
def test_a_loss_that_one_of_two_processes_loses(tmp_path: Path, step: int) -> None:
    folder = write_photographs(tmp_path / "photographs")
    method = f"{__name__}:LOSING_IN_{step}"
    config = replace(TASK, data=f"imagefolder:{folder}", method=method, lam=None)
    job = make_job(tmp_path / "out", replace(config, epochs=3))
    assert train_on(2, job) == [0, 0]
    outcome, _ = end_of(job)
    assert outcome["diverged"]
    assert outcome["diverged_step"] == step
    losses = outcome["loss"]
    assert len(losses) == 1 + (step - 1) // STEPS
    assert [loss is None for loss in losses] == [False] * (len(losses) - 1) + [True]
    assert carry_out(job, ignore) == Workspace(tmp_path / "out").find(key_of(job))
