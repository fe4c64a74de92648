"""`trainact compare`: train what is missing of a grid, then report on all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from trainact.cli.exit_codes import EXIT_INTERRUPTED, EXIT_OK
from trainact.lab.data import AnyData
from trainact.lab.errors import LabError, describe_os_error
from trainact.lab.grid import build_grid
from trainact.lab.jobs import Job, Place, data_of, key_of
from trainact.lab.json_output import json_alone
from trainact.lab.local import train_here
from trainact.lab.options import CompareOptions
from trainact.lab.probe import probe
from trainact.lab.progress import make_console
from trainact.lab.records import FILE_NAME, Record
from trainact.lab.summary import summarise
from trainact.lab.tables import NOTE, as_json, markdown, rich_table, title
from trainact.lab.workspace import Workspace


@dataclass(frozen=True)
class _Comparison:
    """A grid with its data and the place of its records."""

    grid: dict[str, Job]
    data: AnyData
    workspace: Workspace
    console: Console


def main(options: CompareOptions) -> int:
    """Run the comparison.

    Args:
        options: what the user asked for.

    Returns:
        The exit code: 0, or 130 after Ctrl-C.
    """
    with json_alone(options.json) as put:
        comparison = _prepare(options)
        found = _read(comparison)
        _announce(comparison, found)
        missing = [job for key, job in comparison.grid.items() if key not in found]
        interrupted = train_here(missing, comparison.console)
        records = list(_read(comparison, warn=False).values())
        if records:
            put(_report(comparison, records, options.out))
        if interrupted:
            comparison.console.print(
                f"Interrupted: {len(records)} of {len(comparison.grid)} runs are "
                "finished and kept. The same command trains the rest.",
                soft_wrap=True,
            )
    return EXIT_INTERRUPTED if interrupted else EXIT_OK


def _prepare(options: CompareOptions) -> _Comparison:
    configs = build_grid(options)
    workspace = Workspace(options.out)
    workspace.prepare()
    place = Place(
        out=str(options.out), data_dir=str(options.data_dir), device=options.device
    )
    jobs = [Job(config, None, place) for config in configs]
    data = data_of(jobs[0])
    probe(configs, data)
    return _Comparison(
        grid={key_of(job): job for job in jobs},
        data=data,
        workspace=workspace,
        console=make_console(),
    )


def _read(comparison: _Comparison, *, warn: bool = True) -> dict[str, Record]:
    """The finished runs of this grid, in the grid's order."""
    records, warnings = comparison.workspace.records.read()
    for warning in warnings if warn else ():
        comparison.console.print(f"warning: {warning}", soft_wrap=True)
    by_key = {record.key: record for record in records}
    return {key: by_key[key] for key in comparison.grid if key in by_key}


def _announce(comparison: _Comparison, found: dict[str, Record]) -> None:
    data = comparison.data.fingerprint
    lines = [
        f"{data['train']} training and {data['test']} test images, "
        f"{comparison.data.num_classes} classes; {len(comparison.grid)} runs on "
        f"{next(iter(comparison.grid.values())).config.device}"
    ]
    if found:
        total = len(comparison.grid)
        lines.append(
            f"{len(found)} of {total} runs found in {comparison.workspace.records.path}"
        )
    for line in lines:
        comparison.console.print(line, soft_wrap=True)


def _report(comparison: _Comparison, records: Sequence[Record], out: Path) -> str:
    """Show and write the summary; returns it as JSON."""
    from trainact.lab.plots import save_curves

    report = summarise(records)
    titles = [title(arms, records) for arms in report.values()]
    for arms, heading in zip(report.values(), titles, strict=True):
        comparison.console.print(rich_table(arms, heading))
    comparison.console.print(NOTE)
    state = f"{len(records)} of {len(comparison.grid)} runs"
    summary = as_json(report, records, state)
    try:
        (out / "summary.md").write_text(
            markdown(report, records, state), encoding="utf-8"
        )
        (out / "summary.json").write_text(summary, encoding="utf-8")
        save_curves(report, titles, out / "curves.png")
    except OSError as error:
        raise LabError(
            f"the summary could not be written to {out} ({describe_os_error(error)}): "
            f"make room and give the same command again; {FILE_NAME} is complete"
        ) from error
    comparison.console.print(
        f"{state} in {out / FILE_NAME}; curves.png, summary.md and summary.json "
        "beside it",
        soft_wrap=True,
    )
    return summary
