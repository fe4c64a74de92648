"""How the command ends: with which code, with what said, and with what left behind.

A stand-in takes a command's place. Real commands, stopped in real processes, are in
`lab/test_interrupt.py`; what a command says of its options in ``lab/test_cli*.py``.
"""

from __future__ import annotations

import dataclasses
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import trainact
from trainact import cli
from trainact.cli.command import COMMANDS
from trainact.lab.errors import LabError


@dataclass(frozen=True)
class Options:
    """Of the stand-in: none."""


# What the stand-in does; it is found by this name.
act: Callable[[], int]


def main(options: Options) -> int:
    assert options == Options()
    return act()


@pytest.fixture
def run(monkeypatch) -> Callable[[Callable[[], int]], int]:
    """Call the command with something else for it to do."""
    command = dataclasses.replace(
        COMMANDS["recipes"],
        options=f"{__name__}:Options",
        main=f"{__name__}:main",
    )
    monkeypatch.setitem(COMMANDS, "stand-in", command)
    monkeypatch.delenv("RANK", raising=False)

    def call(function: Callable[[], int]) -> int:
        monkeypatch.setattr(sys.modules[__name__], "act", function, raising=False)
        return cli.main(["stand-in"])

    return call


def raising(error: BaseException) -> Callable[[], int]:
    def function() -> int:
        raise error

    return function


def terminate() -> int:
    os.kill(os.getpid(), signal.SIGTERM)
    return 0


@pytest.fixture
def handler():
    """Of SIGTERM, somebody else's: how often it was called."""
    calls: list[int] = []

    def note(number: int, _: Any) -> None:
        calls.append(number)

    before = signal.signal(signal.SIGTERM, note)
    yield calls
    assert signal.signal(signal.SIGTERM, before) is note  # left as it was


def test_the_commands_own_code_is_returned(run, capsys) -> None:
    assert run(lambda: 7) == 7
    assert capsys.readouterr() == ("", "")


def test_termination_is_an_interruption_with_a_code_of_its_own(
    run, handler, capsys
) -> None:
    assert run(terminate) == 143
    assert capsys.readouterr().err == "trainact: interrupted\n"
    assert handler == []


def test_interruption(run, capsys) -> None:
    assert run(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "trainact: interrupted\n"


def test_one_of_several_processes_leaves_termination_to_others(
    run, handler, monkeypatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert run(terminate) == 0
    assert handler == [signal.SIGTERM]


def test_in_a_thread(run) -> None:
    # Python lets the main thread alone say what a signal does.
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run(lambda: 7)))
    thread.start()
    thread.join()
    assert codes == [7]


def test_what_is_not_installed_is_named(run, capsys) -> None:
    assert run(raising(ModuleNotFoundError("...", name="nowhere.part"))) == 2
    assert capsys.readouterr().err == (
        "trainact: `trainact stand-in` needs nowhere.part, which is not installed: "
        "pip install 'trainact[lab]'\n"
    )


@pytest.mark.parametrize("name", ["trainact.nothing", "trainact", None])
def test_an_error_of_ours_is_not_taken_for_a_missing_package(run, name) -> None:
    with pytest.raises(ModuleNotFoundError, match="as it is"):
        run(raising(ModuleNotFoundError("as it is", name=name)))


def test_a_mistake_of_the_user_is_one_line(run, capsys) -> None:
    assert run(raising(LabError("give another path"))) == 2
    assert capsys.readouterr().err == "trainact: give another path\n"


def test_letters_that_the_output_does_not_have(monkeypatch) -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # as in a notebook: left alone
    assert cli.main(["--version"]) == 0
    sys.stdout.write("λ = 0.1 ± 0\n")
    sys.stdout.flush()
    assert written.getvalue().endswith(b"? = 0.1 ? 0\n")


def test_the_package_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trainact", "--version"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"trainact {trainact.__version__}\n"
