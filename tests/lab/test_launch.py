"""Several processes of one command: `--devices`, and the tasks of a cluster's job."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.lab.conftest import Outcome
from trainact import cli
from trainact.lab import launch as launch_module
from trainact.lab.cluster import submit
from trainact.lab.errors import LabError
from trainact.lab.experiment import plan
from trainact.lab.launch import launch, must_launch
from trainact.lab.ranks import ALONE, Ranks, this_process
from trainact.lab.recipes import RECIPES, find_recipes
from trainact.lab.run_options import RunOptions, SweepOptions
from trainact.lab.workspace import Workspace

# A shell that starts tests in the background lets them ignore SIGINT: undo that.
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from trainact.cli import main
sys.exit(main())
"""
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
    """The command in a process of its own, as a terminal starts it."""
    command = [sys.executable, "-c", PROGRAM, *SMOKE, *arguments, "--out", str(out)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        start_new_session=True,
    )


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
def test_ctrl_c(out: Path, tmp_path: Path) -> None:
    arguments = ("--seed", "0", "--method", "own_methods:WAITING", "--devices", "2")
    with start(out, *arguments) as process:
        deadline = time.monotonic() + TIMEOUT
        while not all((tmp_path / rank).exists() for rank in "01"):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        said, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, errors) == (130, "")
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


# What follows starts processes that need no torch, so that they are quick.
OF_RANK = "import os, signal, sys, time\nrank = int(os.environ['RANK'])\n"
LOST = (
    "sys.stderr.write('Traceback (most recent call last):\\n"
    "RuntimeError: Connection closed by peer\\n')\n"
    "sys.exit(1)\n"
)


def launch_script(script: str, devices: int = 2) -> int:
    return launch(devices, ["-c", OF_RANK + script])


@pytest.mark.parametrize("code", ["2", "sys.exit(1) if rank == 0 else 2"])
def test_what_all_say_is_said_once(
    capfd: pytest.CaptureFixture[str], code: str
) -> None:
    script = f"sys.stderr.write('trainact: no λ\\n')\nsys.exit({code})"
    assert launch_script(script, 3) == 2
    assert capfd.readouterr().err == "trainact: no λ\n"


def test_what_one_says_is_said_though_the_other_is_lost_first(
    capfd: pytest.CaptureFixture[str],
) -> None:
    script = (
        "if rank == 1:\n"
        "    sys.stderr.write('a warning\\ntrainact: no room\\n')\n"
        "    sys.stderr.flush()\n"
        "    time.sleep(60)\n"
        "time.sleep(0.5)\n"
    )
    assert launch_script(script + LOST) == 2
    assert capfd.readouterr().err == "trainact: no room\n"


@pytest.mark.parametrize("killed", [0, 1])
def test_what_is_lost_with_it_is_not_said(
    capfd: pytest.CaptureFixture[str], killed: int
) -> None:
    script = f"if rank == {killed}: os.kill(os.getpid(), signal.SIGKILL)\n"
    with pytest.raises(LabError, match=f"^process {killed} of 2 ended with signal 9"):
        launch_script(script + LOST)
    assert capfd.readouterr().err == ""


def test_an_error_that_nobody_foresaw_is_shown(
    capfd: pytest.CaptureFixture[str],
) -> None:
    script = "if rank == 1: raise KeyError('odd')\ntime.sleep(60)"
    with pytest.raises(LabError, match=r"^process 1 of 2 ended with exit code 1"):
        launch_script(script)
    errors = capfd.readouterr().err
    assert errors.startswith("Traceback (most recent call last):\n")
    assert errors.endswith("KeyError: 'odd'\n")


def test_warnings_are_shown_at_once_and_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Screen:
        encoding = "utf-8"
        shown = ""

        def write(self, text: str) -> None:
            self.shown += text
            if "odd" in self.shown:
                (tmp_path / "seen").touch()

        def flush(self) -> None: ...

    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    script = (
        "from pathlib import Path\n"
        "sys.stderr.write('odd\\n')\n"
        "sys.stderr.flush()\n"
        f"seen = Path({str(tmp_path / 'seen')!r})\n"
        "deadline = time.monotonic() + 60\n"
        "while not seen.exists() and time.monotonic() < deadline: time.sleep(0.05)\n"
        "if rank == 0: sys.stderr.write('Traceback of a worker\\neven')\n"
        "sys.exit(0 if seen.exists() else 3)\n"
    )
    assert launch_script(script) == 0
    assert screen.shown == "odd\nTraceback of a worker\neven"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_all_and_mean_the_same_afterwards(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, number: signal.Signals
) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    script = (
        "from pathlib import Path\n"
        "def note(number, frame):\n"
        f"    Path({str(tmp_path)!r}, f'{{rank}}-{{number}}').touch()\n"
        "    sys.exit(1)\n"
        f"signal.signal({int(number)}, note)\n"
        f"begun = [Path({str(tmp_path)!r}, f'{{other}}') for other in range(2)]\n"
        "begun[rank].touch()\n"
        "while not all(path.exists() for path in begun): time.sleep(0.05)\n"
        f"if rank == 0: os.kill(os.getppid(), {int(number)})\n"
        "time.sleep(60)\n"
    )
    assert launch_script(script) == 128 + number
    assert all((tmp_path / f"{rank}-{number:d}").exists() for rank in range(2))
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == (
        before
    )
    assert capfd.readouterr().err == ""


RANKS: dict[str, Any] = {
    "RANK": 5,
    "WORLD_SIZE": 8,
    "LOCAL_RANK": 1,
    "LOCAL_WORLD_SIZE": 4,
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": 1234,
}


def test_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert this_process() == ALONE
    for name, value in RANKS.items():
        monkeypatch.setenv(name, str(value))
    found = this_process()
    assert found == Ranks(rank=5, size=8, local_rank=1, local_size=4)
    assert (found.is_first, found.num_nodes) == (False, 2)
    for name in RANKS:
        with monkeypatch.context() as without:
            without.delenv(name)
            assert this_process() == ALONE, "not torchrun's"


@pytest.mark.parametrize(
    ("devices", "device", "gpus", "expected"),
    [
        (1, "cuda", 0, False),
        (2, "cpu", 0, True),
        (2, "auto", 0, True),
        (2, "auto", 2, True),
        (2, "cuda", 4, True),
        (2, "auto", 1, "--devices 2 of auto: this machine has 1 GPUs"),
        (2, "cuda", 0, "--devices 2 of cuda: this machine has 0 GPUs"),
        (2, "cuda:1", 2, "--devices 2 of cuda:1"),
        (2, "mps", 0, "--devices 2 of mps"),
        (0, "cpu", 0, "--devices 0: give a finite number above 0"),
        (-1, "cpu", 0, "--devices -1"),
    ],
)
def test_must_launch(
    monkeypatch: pytest.MonkeyPatch,
    devices: int,
    device: str,
    gpus: int,
    expected: bool | str,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if isinstance(expected, bool):
        assert must_launch(devices, device) is expected
        return
    with pytest.raises(LabError) as error:
        must_launch(devices, device)
    assert str(error.value).startswith(expected)


def test_what_is_started_already_is_not_launched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch_module, "this_process", lambda: Ranks(5, 8, 1, 4))
    assert not must_launch(1, "cpu")
    assert not must_launch(4, "cpu")
    with pytest.raises(LabError, match="--devices 2, but 4 processes were started"):
        must_launch(2, "cpu")


@pytest.mark.slow
def test_tasks_of_a_cluster_train_together(out: Path) -> None:
    """Through submitit's executor for one machine."""
    options = SweepOptions(recipes=("fig4-100",), out=out, device="cpu", devices=2)
    recipe = RECIPES["fig4-100"]
    settings = RunOptions(
        recipe=recipe.name, out=out, smoke=True, logger="none", device="cpu"
    )
    (job,) = plan(
        find_recipes([recipe.name]), replace(settings, method=("vanilla",)), [0]
    )
    (submitted,) = submit([job], options, cluster="local")
    keys = set(submitted.results())
    (record,) = Workspace(out).records.read()[0]
    assert keys == {record.key}
    assert record.num_devices == 2
    assert record.config == job.config
