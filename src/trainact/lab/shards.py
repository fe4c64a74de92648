"""``trainact shards``: write a folder of images as WebDataset shards, or index some."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from trainact.lab.data.photographs.index import INDEX_NAME, Index, Shard
from trainact.lab.data.photographs.load import FOLDER_PREFIX, SHARDS_PREFIX
from trainact.lab.data.photographs.making import make_shards, plan_shards
from trainact.lab.data.photographs.remote import is_remote, local_path
from trainact.lab.data.photographs.scan import index_shards
from trainact.lab.errors import LabError, check_positive, describe_os_error
from trainact.lab.progress import make_console
from trainact.lab.shards_options import IndexOptions, MakeOptions, ShardsOptions

_SECONDS_BETWEEN_LINES = 60.0


def main(options: ShardsOptions) -> int:
    """Run the command.

    Args:
        options: from the command line.

    Returns:
        The exit code 0.
    """
    console = make_console()
    if isinstance(options.command, MakeOptions):
        _make(options.command, console)
    else:
        _index(options.command, console)
    return 0


def _make(options: MakeOptions, console: Console) -> None:
    check_positive("--shard-mb", options.shard_mb)
    check_positive("--limit", options.limit)
    if not options.folder.startswith(FOLDER_PREFIX):
        raise LabError(f"{options.folder!r}: give {FOLDER_PREFIX}PATH")
    root = Path(options.folder.removeprefix(FOLDER_PREFIX)).expanduser()
    out = options.out.expanduser()
    plan = plan_shards(root, max(1, int(options.shard_mb * 1e6)), options.limit)
    try:
        with _progress(console, "written") as report:
            index = make_shards(plan, out, report)
    except KeyboardInterrupt:
        line = "The same command goes on with the shard that was begun."
        console.print(line, soft_wrap=True)
        raise
    _conclude(console, index, out)


def _index(options: IndexOptions, console: Console) -> None:
    if options.out is not None:
        folder = options.out.expanduser()
    elif is_remote(options.shards):
        raise LabError(
            f"{options.shards}: the index cannot be written there, so give a folder "
            "for it with --out"
        )
    else:
        folder = local_path(options.shards)
    if (folder / INDEX_NAME).exists():
        raise LabError(f"{folder / INDEX_NAME} is there already: remove it first")
    with _progress(console, "read") as report:
        index = index_shards(options.shards, report, is_beside=options.out is None)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(
            f"cannot make {folder} ({describe_os_error(error)}): give another --out"
        ) from error
    index.write(folder)
    _conclude(console, index, folder)


def _conclude(console: Console, index: Index, folder: Path) -> None:
    console.print(
        f"{_count(index.train)} training and {_count(index.test)} test images of "
        f"{len(index.classes):,} classes in {len(index.train) + len(index.test):,} "
        f"shards; train on them with --data {SHARDS_PREFIX}{folder}",
        soft_wrap=True,
    )


def _count(shards: Sequence[Shard]) -> str:
    return f"{sum(len(shard.labels) for shard in shards):,}"


@contextlib.contextmanager
def _progress(console: Console, what: str) -> Generator[Callable[[int, int], None]]:
    """Show a bar on a terminal, and now and then a line elsewhere.

    Yields:
        Takes how much is done, and of how much.
    """
    bar = Progress(
        TextColumn("{task.percentage:>3.0f} % " + what),
        BarColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_interactive,
        transient=True,
    )
    task = bar.add_task(what, total=None)
    said = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal said
        bar.update(task, completed=done, total=total)
        if bar.disable and time.monotonic() - said > _SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            console.print(f"{done / max(1, total):.0%} {what}")

    with bar:
        yield report
