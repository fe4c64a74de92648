"""What the command writes where: pipes that close, pipes and notebooks without bars."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rich.console
from rich.console import Console

from tests.lab.conftest import CONFIG, TINY
from trainact import cli
from trainact.cli.exit_codes import EXIT_BROKEN_PIPE
from trainact.lab.epoch_result import EpochResult
from trainact.lab.progress import ComparisonProgress, make_console

POSIX = pytest.mark.skipif(os.name == "nt", reason="a pipe breaks so on POSIX")


def start(*arguments: str, **changes: Any) -> subprocess.Popen[str]:
    """Start `trainact` with its streams in pipes."""
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", **changes.pop("env", {})}
    return subprocess.Popen(
        [sys.executable, "-m", "trainact", *arguments],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **changes},
        text=True,
        encoding="utf-8",
        env=environment,
    )


@POSIX
@pytest.mark.parametrize(
    "arguments", [["--help"], ["recipes"], ["recipes", "fig6"], ["compare", "--help"]]
)
def test_nobody_reads_any_more(arguments: list[str]) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with start(*arguments, stdout=theirs) as process:
        os.close(theirs)
        _, errors = process.communicate(timeout=120)
    assert errors == ""
    assert process.returncode == EXIT_BROKEN_PIPE == 141


@POSIX
def test_nobody_reads_training_any_more(tmp_path: Path) -> None:
    arguments = ("compare", *TINY, "--seeds", "0", "1", "--out", str(tmp_path))
    with start(*arguments) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("100 training and")
        process.stdout.close()
        assert process.stderr is not None
        errors = process.stderr.read()
        assert process.wait(timeout=120) == 141
    assert errors == ""
    # What was finished is kept, and the same command goes on.
    assert (tmp_path / "records.jsonl").read_text(encoding="utf-8").count("\n") >= 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no /dev/full")
@pytest.mark.parametrize("arguments", [["--version"], ["recipes"], ["run", "--help"]])
def test_output_to_a_full_disk(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full, start(*arguments, stdout=full) as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors.startswith("trainact: No space left on device")
    assert errors.count("\n") == 1


@POSIX
def test_closed_streams() -> None:
    code = (
        "import os, sys\n"
        "os.close(1); sys.stdout = None\n"
        "from trainact.cli import main\n"
        "sys.exit(main(['recipes', 'fig6']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("environment", [{}, {"FORCE_COLOR": "1"}])
def test_progress_in_a_pipe(environment: dict[str, str], tmp_path: Path) -> None:
    arguments = ("compare", *TINY, "--seeds", "0", "1", "--out", str(tmp_path))
    with start(*arguments, env=environment) as process:
        out, errors = process.communicate(timeout=120)
    assert process.returncode == 0
    assert errors == ""
    colours = r"\033\[[0-9;]*m"
    assert bool(re.search(colours, out)) == bool(environment)
    plain = re.sub(colours, "", out)
    assert plain.isprintable() or set(filter(str.isspace, plain)) == {" ", "\n"}
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", plain)
    before, title, _ = plain.partition("mlp on digits")
    assert title
    lines = before.splitlines()
    assert len(lines) == 1 + 4  # the data, and each run when it is finished
    assert [line[:5] for line in lines[1:]] == [f"[{n}/4]" for n in (1, 2, 3, 4)]


class NotebookStream(io.StringIO):
    """Standard output as a notebook's kernel has it: no file, no terminal."""

    encoding = "UTF-8"


def test_python_in_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With rich in its notebook mode, whose HTML would be a block for each line."""
    stream = NotebookStream()
    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: True)
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as ipykernel does
    assert Console().is_jupyter
    arguments = ["compare", *TINY, "--seeds", "0", "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    shown = stream.getvalue()
    assert "[2/2] mlp, tract λ=0.1, seed 0: accuracy" in shown
    assert "curves.png, summary.md and summary.json beside it" in shown
    assert not re.search(r"\033\[[0-9;?]*[A-Zhl]|\r", shown)


def console_on(
    monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool, **environment: str
) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal)
    monkeypatch.setattr("sys.stdout", stream)
    for name in ("FORCE_COLOR", "JPY_PARENT_PID", "NO_COLOR", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm", "COLUMNS": "80", **environment}.items():
        monkeypatch.setenv(name, value)
    return make_console(), stream


@pytest.mark.parametrize(
    ("is_terminal", "environment", "has_bars", "width"),
    [
        (True, {}, True, 80),
        (True, {"TERM": "dumb"}, False, 80),
        (True, {"JPY_PARENT_PID": "1"}, False, 110),
        (False, {}, False, 110),
        (False, {"FORCE_COLOR": "1"}, False, 110),
        (False, {"COLUMNS": "150"}, False, 150),
    ],
)
def test_where_there_are_bars(
    is_terminal: bool,
    environment: dict[str, str],
    has_bars: bool,
    width: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    console, stream = console_on(monkeypatch, is_terminal=is_terminal, **environment)
    assert console.width == width
    with ComparisonProgress(console, 1) as progress:
        progress.start(CONFIG)
        progress.finish("a run", "well")
    shown = stream.getvalue()
    assert ("\033[2K" in shown) == has_bars
    assert ("━" in shown) == has_bars
    assert "[1/1] a run: well" in shown


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_long_run_says_how_far_it_is(
    term: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a minute where no bar does."""
    console, stream = console_on(monkeypatch, is_terminal=term == "dumb", TERM=term)
    now = [0.0]
    monkeypatch.setattr("trainact.lab.progress.time.monotonic", lambda: now[0])
    result = EpochResult(0.5, None, 1.0, 1.0, 0.0, 0.0)
    with ComparisonProgress(console, 1) as progress:
        progress.start(CONFIG)
        for epoch in range(1, 200):
            now[0] = float(epoch)
            progress.epoch([result] * epoch)
    lines = stream.getvalue().splitlines()
    assert lines == [
        f"    mlp, vanilla, seed 0: epoch {epoch}, accuracy 0.5000"
        for epoch in (61, 122, 183)
    ]
