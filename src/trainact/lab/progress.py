"""Progress of a comparison: live bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from trainact.lab.config import RunConfig
from trainact.lab.epoch_result import EpochResult
from trainact.lab.ranks import this_process
from trainact.lab.records import Record

PLAIN_WIDTH = 110
_SECONDS_BETWEEN_LINES = 60.0
# Set by Jupyter for its kernels, and so for the commands that cells start with `!`.
_OF_A_NOTEBOOK = "JPY_PARENT_PID"


def make_console(plain_width: int = PLAIN_WIDTH) -> Console:
    """Build the console for standard output.

    Its ``is_interactive`` says whether bars can move: on a terminal that can move its
    cursor. A notebook shows such bars as one line below another, be it that a cell
    calls Python, which rich would answer with HTML, or that it starts the command,
    which then sees a terminal. And FORCE_COLOR asks for colours, also in a pipe, but
    makes no terminal of it.

    Args:
        plain_width: of tables where no terminal says its own.

    Returns:
        The console.
    """
    is_terminal = sys.stdout.isatty() and _OF_A_NOTEBOOK not in os.environ
    console = Console(
        highlight=False,
        markup=False,  # names are shown as they are
        emoji=False,
        quiet=not this_process().is_first,
        force_jupyter=False,
        force_interactive=None if is_terminal else False,
    )
    if not is_terminal:
        console.width = max(console.width, plain_width)
    return console


class ComparisonProgress:
    """Shows runs as they train.

    Args:
        console: where to.
        num_runs: still to be trained.
    """

    def __init__(self, console: Console, num_runs: int) -> None:
        self._console = console
        self._num_runs = num_runs
        self._num_done = 0
        self._task: TaskID | None = None
        self._title = ""
        self._quiet_until = 0.0
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[accuracy]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_interactive,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        self._overall = self._bars.add_task(
            "all runs", total=self._num_runs, accuracy=""
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._drop_bar()
        self._bars.remove_task(self._overall)
        self._bars.stop()

    def start(self, config: RunConfig) -> None:
        """Open the bar of a run.

        Args:
            config: of the run.
        """
        self._task = self._bars.add_task(config.title, total=config.epochs, accuracy="")
        self._title = config.title
        self._quiet_until = time.monotonic() + _SECONDS_BETWEEN_LINES

    def epoch(self, history: list[EpochResult]) -> None:
        """Move the bar to an epoch; where there are no bars, say so now and then.

        Args:
            history: all epochs of the run so far.
        """
        result = history[-1]
        text = f"accuracy {result.accuracy:.4f}"
        if self._task is not None:
            self._bars.update(self._task, completed=len(history), accuracy=text)
        if not self._console.is_interactive and time.monotonic() > self._quiet_until:
            self._quiet_until = time.monotonic() + _SECONDS_BETWEEN_LINES
            self._print(f"    {self._title}: epoch {len(history)}, {text}")

    def finish(self, title: str, outcome: str) -> None:
        """Replace the bar of a run by a line.

        Args:
            title: of the run.
            outcome: what became of it.
        """
        self._drop_bar()
        self._num_done += 1
        self._bars.advance(self._overall)
        self._print(f"[{self._num_done}/{self._num_runs}] {title}: {outcome}")

    def say(self, lines: Iterable[str]) -> None:
        """Show how far runs are that have no bars here.

        Args:
            lines: one for each.
        """
        for line in lines:
            self._print(f"    {line}")

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)

    def _drop_bar(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None


def outcome(record: Record | None) -> str:
    """Say what became of a run.

    Args:
        record: of the run, or None where another process is at it.

    Returns:
        For example ``accuracy 0.9711 (1.2 s)``.
    """
    if record is None:
        return "another process is at it"
    seconds = sum(record.seconds)
    if record.diverged:
        step = "" if record.diverged_step is None else f", step {record.diverged_step}"
        return f"diverged in epoch {len(record.loss)}{step} ({seconds:.1f} s)"
    return f"accuracy {record.accuracy[-1]:.4f} ({seconds:.1f} s)"
