"""Jobs carried out in this process, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from trainact.cli.exit_codes import EXIT_INTERRUPTED, EXIT_OK
from trainact.lab.data import AnyData
from trainact.lab.errors import INTERRUPTED, how_many
from trainact.lab.jobs import Job, carry_out, data_of, key_of
from trainact.lab.probe import probe
from trainact.lab.progress import ComparisonProgress, outcome
from trainact.lab.ranks import agree
from trainact.lab.results import results_table
from trainact.lab.workspace import Workspace


def train_missing(jobs: Sequence[Job], title: str, out: Path, console: Console) -> int:
    """Train the jobs that have no record, in this process.

    Args:
        jobs: of one recipe.
        title: of the recipe.
        out: folder of the runs.
        console: where progress is shown.

    Returns:
        The exit code: 0, or 130 after Ctrl-C.
    """
    workspace = Workspace(out)
    workspace.prepare()
    data = data_of(jobs[0])
    missing = without_record(jobs, workspace)
    announce(console, title, jobs, missing, data)
    probe([job.config for job in missing], data)
    interrupted = train_here(missing, console)
    finish(console, workspace, jobs, interrupted=interrupted)
    return EXIT_INTERRUPTED if interrupted else EXIT_OK


def without_record(jobs: Sequence[Job], workspace: Workspace) -> list[Job]:
    """Choose the jobs that are still to be done.

    Args:
        jobs: all.
        workspace: of the runs, read once.

    Returns:
        Those that have no record, in their order.
    """
    recorded = agree({record.key for record in workspace.records.read()[0]})
    return [job for job in jobs if key_of(job) not in recorded]


def announce(
    console: Console,
    title: str,
    jobs: Sequence[Job],
    missing: Sequence[Job],
    data: AnyData,
) -> None:
    """Say what there is to do.

    Args:
        console: where to.
        title: of the recipe or sweep.
        jobs: all.
        missing: those without a record.
        data: of the first job.
    """
    found = len(jobs) - len(missing)
    config = jobs[0].config
    runs, epochs = how_many(len(jobs), "run"), how_many(config.epochs, "epoch")
    lines = [
        title,
        f"{config.data}: {data.num_train:,} training and "
        f"{data.num_test:,} test images; {runs} of {epochs} on {config.device}, "
        f"{found} of them recorded",
    ]
    for line in lines:
        console.print(line, soft_wrap=True)


def train_here(jobs: Sequence[Job], console: Console) -> bool:
    """Carry jobs out in this process.

    Args:
        jobs: without a record.
        console: where progress is shown.

    Returns:
        Whether Ctrl-C ended it.
    """
    try:
        with ComparisonProgress(console, len(jobs)) as progress:
            for job in jobs:
                progress.start(job.config)
                record = carry_out(job, progress.epoch)
                progress.finish(job.config.title, outcome(record))
    except KeyboardInterrupt:
        return True
    return False


def finish(
    console: Console, workspace: Workspace, jobs: Sequence[Job], *, interrupted: bool
) -> None:
    """Show what is recorded of the jobs, and what to do next.

    Args:
        console: where to.
        workspace: of the runs.
        jobs: all.
        interrupted: whether Ctrl-C ended the training.
    """
    keys = {key_of(job) for job in jobs}
    records = [r for r in workspace.records.read()[0] if r.key in keys]
    if records:
        console.print(results_table(records))
    total = how_many(len(jobs), "run")
    lines = [f"{len(records)} of {total} in {workspace.records.path}"]
    if interrupted:
        lines.append(INTERRUPTED)
    if records:
        lines.append(f"trainact report {workspace.folder} draws and compares them.")
    for line in lines:
        console.print(line, soft_wrap=True)
