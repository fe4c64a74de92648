"""What several processes of one command say when some of them fail, in one voice."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from trainact.lab import launch as launch_module
from trainact.lab.errors import LabError
from trainact.lab.launch import launch, must_launch
from trainact.lab.ranks import ALONE, Ranks, own_cores, this_process

# torchrun's launcher leaves the files that it redirects to for the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:unclosed file .*stderr\.log:ResourceWarning"
)
# Needs no torch, so that it is quick.
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
    def own(*_: object) -> None: ...

    script = (
        "from pathlib import Path\n"
        "def note(number, frame):\n"
        f"    Path({str(tmp_path)!r}, f'{{rank}}-{{number}}').touch()\n"
        "    sys.stderr.write('trainact: interrupted\\n')\n"
        "    sys.exit(1)\n"
        f"signal.signal({int(number)}, note)\n"
        f"begun = [Path({str(tmp_path)!r}, f'{{other}}') for other in range(2)]\n"
        "begun[rank].touch()\n"
        "while not all(path.exists() for path in begun): time.sleep(0.05)\n"
        f"if rank == 0: os.kill(os.getppid(), {int(number)})\n"
        "time.sleep(60)\n"
    )
    before = signal.signal(number, own)
    try:
        assert launch_script(script) == 128 + number
        assert signal.getsignal(number) is own
    finally:
        signal.signal(number, before)
    assert all((tmp_path / f"{rank}-{number:d}").exists() for rank in range(2))
    assert capfd.readouterr().err == "trainact: interrupted\n"


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
        (2, "auto", 0, "--devices 2 of auto: this machine has 0 GPUs; give fewer, or"),
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


BOUND = [{0, 1}, {2, 3}, {4, 5}, {6, 7}]  # such as by SLURM, to cores of their own
FREE = 4 * [set(range(8))]


@pytest.mark.parametrize(
    ("here", "elsewhere", "expected"),
    [(BOUND, BOUND, 2), (FREE, FREE, 2), (FREE, BOUND, 2), (4 * [{3}], BOUND, 1)],
)
def test_own_cores(
    monkeypatch: pytest.MonkeyPatch,
    here: list[set[int]],
    elsewhere: list[set[int]],
    expected: int,
) -> None:
    """Processes 0 to 3 are on one machine, 4 to 7, of which this is 5, on another."""
    for name, value in RANKS.items():
        monkeypatch.setenv(name, str(value))
    given = [*((0, own) for own in elsewhere), *((4, own) for own in here)]

    def gather(found: list[object], own: object) -> None:
        assert own == given[5]
        found[:] = given

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: here[1], raising=False)
    assert own_cores() == max(1, len(here[1]) // 4), "before the others are there"
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "all_gather_object", gather)
    assert own_cores() == expected
