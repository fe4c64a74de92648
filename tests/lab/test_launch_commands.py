"""`--devices` and the tasks of a cluster's job, as real commands."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import commands
from tests.lab.conftest import Outcome
from trainact import cli
from trainact.lab.cluster import submit
from trainact.lab.experiment import plan
from trainact.lab.recipes import find_recipes
from trainact.lab.run_options import RunOptions, SweepOptions
from trainact.lab.workspace import Workspace

SMOKE = ("run", "fig4-100", "--smoke", "--device", "cpu", "--logger", "none")
METHODS = """
import os, signal, time
from pathlib import Path
from trainact.lab.methods.base import Method

RANK = os.environ["RANK"]
models = []

def kill(model, settings):
    if RANK == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return model

def wait(model, inputs):
    # Until then the other process waits for this one's gradients.
    Path(os.environ["BEGUN"], RANK).touch()
    time.sleep(600 if RANK == "0" else 0)

def wait_in_training(model, settings):
    models.append(model)
    if len(models) > 1:  # not when it is tried out
        model.register_forward_pre_hook(wait)
    return model

KILLED = Method("killed", uses_lam=False, convert=kill)
WAITING = Method("waiting", uses_lam=False, convert=wait_in_training)
"""
TIMEOUT = 240.0
# torchrun's launcher leaves the files that it redirects to for the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:unclosed file .*stderr\.log:ResourceWarning"
)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "own_methods.py").write_text(METHODS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("BEGUN", str(tmp_path))


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """A folder for runs, of which no process is left in the end."""
    folder = tmp_path / "out"
    yield folder
    deadline = time.monotonic() + 30  # a process that reads images looks now and then
    while (left := commands_with(str(folder))) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []


def commands_with(text: str) -> list[str]:
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, check=True)
    return [line for line in listed.stdout.decode().splitlines() if text in line]


def start(out: Path, *arguments: str) -> subprocess.Popen[str]:
    return commands.start(*SMOKE, *arguments, "--out", str(out))


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], out: Path
) -> Callable[..., Outcome]:
    """The command in this process."""

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr(
            sys, "argv", ["trainact", *SMOKE, *arguments, "--out", str(out)]
        )
        code = cli.main()
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.mark.slow
def test_two_devices_train_as_one_does(
    out: Path, command: Callable[..., Outcome]
) -> None:
    arguments = ("--seed", "0", "--method", "vanilla", "tract", "--lam", "0.1", "0.2")
    with start(out, *arguments, "--devices", "2") as process:
        said, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, errors) == (0, "")
    records, _ = Workspace(out).records.read()
    arms = ["vanilla", "tract λ=0.1", "tract λ=0.2"]
    assert [record.config.arm for record in records] == arms
    assert {record.num_devices for record in records} == {2}
    assert all(record.command.startswith("trainact run fig4-100") for record in records)
    for number, arm in enumerate(arms, start=1):
        assert said.count(f"[{number}/3] cifar:vit, {arm}, seed 0: accuracy") == 1
    assert said.count("3 of 3 runs in") == 1
    alone = command(*arguments)
    assert (alone.code, alone.err) == (0, ""), "the keys are those of one device"
    assert "3 of them recorded" in alone.out
    assert without_runs(said) == without_runs(alone.out)


def without_runs(said: str) -> list[str]:
    """What is shown but for the runs and how many were there before."""
    return [line for line in said.splitlines() if not re.search(r"^\[|recorded$", line)]


@pytest.mark.slow
def test_a_process_that_is_killed(out: Path, command: Callable[..., Outcome]) -> None:
    outcome = command("--seed", "0", "--method", "own_methods:KILLED", "--devices", "2")
    assert outcome.code == 2
    assert outcome.err == (
        "trainact: process 1 of 2 ended with signal 9 and the others were ended: the "
        "same command goes on from the last checkpoint\n"
    )
    assert "accuracy" not in outcome.out
    assert Workspace(out).records.read()[0] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kill", "number"),
    [
        (os.killpg, signal.SIGINT),  # as a terminal does
        (os.kill, signal.SIGTERM),
        (os.killpg, signal.SIGTERM),
    ],
)
def test_ended_by_a_signal(
    out: Path, tmp_path: Path, kill: Callable[[int, int], None], number: int
) -> None:
    arguments = ("--seed", "0", "--method", "own_methods:WAITING", "--devices", "2")
    with start(out, *arguments) as process:
        deadline = time.monotonic() + TIMEOUT
        while not all((tmp_path / rank).exists() for rank in "01"):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        kill(process.pid, number)
        said, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, errors) == (128 + number, "")
    assert said.count("Interrupted: the same command goes on where it stopped.") == 1


@pytest.mark.slow
def test_bad_input_is_said_once(command: Callable[..., Outcome]) -> None:
    outcome = command("--data", "imagefolder:/nowhere", "--devices", "2")
    assert outcome == Outcome(
        2,
        "",
        "trainact: imagefolder /nowhere does not exist: give a folder of class "
        "folders\n",
    )


@pytest.mark.slow
def test_tasks_of_a_cluster_train_together(out: Path) -> None:
    """Through submitit's executor for one machine."""
    where: dict[str, Any] = {"out": out, "device": "cpu"}
    options = RunOptions(
        recipe="fig4-100", smoke=True, logger="none", method=("vanilla",), **where
    )
    (job,) = plan(find_recipes(["fig4-100"]), options, [0])
    cluster = SweepOptions(recipes=("fig4-100",), devices=2, **where)
    (submitted,) = submit([job], cluster, cluster="local")
    keys = submitted.results()
    (record,) = Workspace(out).records.read()[0]
    assert keys == 2 * [record.key]
    assert record.num_devices == 2
    assert record.config == job.config
