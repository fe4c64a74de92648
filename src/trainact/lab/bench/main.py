"""`trainact bench`: measure, show, record."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from trainact.cli.exit_codes import EXIT_FAILED, EXIT_OK
from trainact.lab.bench.arms import MUST_WORK
from trainact.lab.bench.measure import measure
from trainact.lab.bench.options import BenchOptions
from trainact.lab.bench.plan import plan
from trainact.lab.bench.records import BenchRecord, bench_file
from trainact.lab.bench.summary import summarise
from trainact.lab.bench.tables import (
    LAYER_COLUMNS,
    SCALING_COLUMNS,
    STEP_COLUMNS,
    layer_rows,
    notes,
    scaling_rows,
    step_rows,
)
from trainact.lab.bench.workload import Job
from trainact.lab.devices import resolve_device
from trainact.lab.environment import device_name, versions
from trainact.lab.errors import LabError, how_many
from trainact.lab.json_output import json_alone, json_text
from trainact.lab.line_file import LineFile
from trainact.lab.table_text import plain

NAME = "bench.jsonl"


def main(options: BenchOptions) -> int:
    """Measure what the options ask for.

    Args:
        options: what the user asked for.

    Returns:
        The exit code: 1 if vanilla or trainact is wrong or fails anywhere, or a case
        cannot be run; otherwise 0.
    """
    with json_alone(options.json) as put:
        device = _resolve(options.device)
        jobs = plan(options, device)
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        file = _prepare(options.out)
        _write(_machine(device))
        records, num_failed = _measure(options, jobs, device, file)
        _finish(options, records)
        if options.json:
            put(_as_json(options, records))
    return EXIT_FAILED if num_failed else EXIT_OK


def _measure(
    options: BenchOptions,
    jobs: Sequence[Job],
    device: torch.device,
    file: LineFile[BenchRecord],
) -> tuple[list[BenchRecord], int]:
    """What was measured, and how much of it is broken."""
    records: list[BenchRecord] = []
    num_failed = 0
    for number, job in enumerate(_within(jobs, options.minutes), 1):
        progress = f"[{number}/{len(jobs)}] {job.name}"
        try:
            record = measure(
                job, device, lambda what, at=progress: _write(f"{at}: {what}")
            )
        except LabError as error:
            num_failed += 1
            _write(f"{progress}: {error}")
            continue
        file.append(record)
        records.append(record)
        num_failed += _is_broken(record)
        _show(record)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return records, num_failed


def _prepare(out: Path) -> LineFile[BenchRecord]:
    if out.is_dir():
        raise LabError(f"--out {out} is a folder: give a file, such as {out / NAME}")
    file = bench_file(out)
    file.prepare()
    return file


def _resolve(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = resolve_device(name)
    if device.type not in ("cpu", "cuda"):
        raise LabError(f"--device {name}: bench measures on cpu and cuda")
    return device


def _within(jobs: Sequence[Job], minutes: float | None) -> Iterator[Job]:
    """The jobs, as long as there is time; says which are left out."""
    start = time.monotonic()
    for index, job in enumerate(jobs):
        if minutes is not None and time.monotonic() - start > 60 * minutes:
            left = "; ".join(job.name for job in jobs[index:])
            _write(f"{minutes:g} minutes are over, not measured: {left}")
            return
        yield job


def _is_broken(record: BenchRecord) -> bool:
    return any(arm.problem and arm.arm in MUST_WORK for arm in record.arms)


def _show(record: BenchRecord) -> None:
    steps = step_rows([record])
    if steps:
        _write("", *plain(STEP_COLUMNS, steps))
    if record.axis is None:
        _write("", *plain(LAYER_COLUMNS, layer_rows([record])), "")
    _write(*notes([record]))


def _finish(options: BenchOptions, records: list[BenchRecord]) -> None:
    scaling = scaling_rows(records)
    if scaling:
        _write("", *plain(SCALING_COLUMNS, scaling, left=2), "")
    _write(f"{how_many(len(records), 'record')} added to {options.out}")


def _as_json(options: BenchOptions, records: list[BenchRecord]) -> str:
    results = [
        {
            "case": record.name,
            "mode": record.mode.name,
            "rounds": record.rounds,
            "floor_ms": 1e3 * record.floor.seconds,
            "arms": [asdict(arm) for arm in summarise(record)],
        }
        for record in records
    ]
    return json_text({"out": str(options.out), "results": results})


def _machine(device: torch.device) -> str:
    found = versions()
    return (
        f"{device_name(device)}, {torch.get_num_threads()} threads, torch "
        f"{found['torch']}, trainact {found['trainact']}; ratios and extra time are "
        "medians over interleaved rounds [95 % interval of the median]"
    )


def _write(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()
