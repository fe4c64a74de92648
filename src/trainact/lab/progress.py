"""Progress of a comparison: live bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from trainact.lab.config import RunConfig
from trainact.lab.records import Record
from trainact.lab.task import EpochResult

_PLAIN_WIDTH = 110


def make_console() -> Console:
    """Build the console for standard output.

    Returns:
        A console that does not fold tables when output goes to a file or a pipe.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _PLAIN_WIDTH)
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
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[accuracy]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
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
        self._task = self._bars.add_task(
            describe(config), total=config.epochs, accuracy=""
        )

    def epoch(self, result: EpochResult) -> None:
        """Move the bar by an epoch.

        Args:
            result: of the epoch.
        """
        if self._task is not None:
            text = f"accuracy {result.accuracy:.4f}"
            self._bars.update(self._task, advance=1, accuracy=text)

    def finish(self, record: Record) -> None:
        """Replace the bar of a run by a line.

        Args:
            record: of the run.
        """
        self._drop_bar()
        self._num_done += 1
        self._bars.advance(self._overall)
        self._console.print(
            f"[{self._num_done}/{self._num_runs}] {describe(record.config)}: "
            f"{_outcome(record)}",
            markup=False,
            soft_wrap=True,
        )

    def _drop_bar(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None


def describe(config: RunConfig) -> str:
    """Name a run.

    Args:
        config: of the run.

    Returns:
        For example ``mlp, tract λ=0.1, seed 2``.
    """
    return f"{config.model}, {config.arm}, seed {config.seed}"


def _outcome(record: Record) -> str:
    seconds = sum(record.seconds)
    if record.diverged:
        return f"diverged in epoch {len(record.loss)} ({seconds:.1f} s)"
    return f"accuracy {record.accuracy[-1]:.4f} ({seconds:.1f} s)"
