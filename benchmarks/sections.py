"""Parts of the documents, each from one file of plain records."""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from trainact import Estimate
from trainact.lab.records import Record, RecordFile

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "records" / "benchmarks"
EXACTNESS = RECORDS / "exactness.jsonl"
ESTIMATES = RECORDS / "estimates.jsonl"
GRAM = RECORDS / "gram-cpu.jsonl"
PIPELINES = RECORDS / "pipelines-cpu.jsonl"
JAX_STEPS = RECORDS / "jax-cpu.jsonl"


def load(path: Path) -> list[dict[str, Any]]:
    """Read a file of records, one JSON object a line."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def load_runs(path: Path) -> list[Record]:
    """Read the committed runs of one command."""
    records, warnings = RecordFile(path).read()
    if warnings:
        sys.exit("\n".join(warnings))
    return records


def fill(text: str, name: str, content: str, gap: str = "\n") -> str:
    """Replace what stands between the marks of a region."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        sys.exit(f"no document has a region {name!r}")
    return pattern.sub(lambda _: f"{begin}{gap}{content}{gap}{end}", text)


def source(record: dict[str, Any], path: Path) -> str:
    """Where figures come from: command, version, machine, file."""
    torch = record.get("versions", record)["torch"]
    threads = record["threads"]
    return (
        f"`{record['command']}`, torch {torch}, {record['device']}, "
        f"{threads} thread{'s' if threads > 1 else ''}; from `{path.relative_to(ROOT)}`"
    )


def errors() -> dict[str, str]:
    """Largest error of each way of training by dtype, and where they come from."""
    records = load(EXACTNESS)
    worst: dict[str, dict[str, float]] = defaultdict(dict)
    by_stem: dict[str, list[float]] = defaultdict(list)
    for record in records:
        row, dtype, error = record["row"], record["dtype"], record["error"]
        worst[row][dtype] = max(error, worst[row].get(dtype, 0.0))
        if row == "own statistics":
            by_stem[record["stem"]].append(100 * error)
    cells = {
        row: ", ".join(f"{dtype} {error:.0e}" for dtype, error in of_row.items())
        for row, of_row in worst.items()
    }
    cells["micro-batches"] = ", ".join(
        f"{min(percent):.0f} to {max(percent):.0f} % ({stem})"
        for stem, percent in by_stem.items()
    )
    off = [100 * r["error"] for r in records if r["row"] == "ddp, sync=False"]
    cells["ranks"] = f"up to {max(off):.0f} %"
    cells["setting"] = source(records[-1], EXACTNESS)
    return cells


def estimates_section() -> str:
    """A table for each problem on which cheaper statistics were measured."""
    records = load(ESTIMATES)
    by_problem: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        by_problem[f"{record['model']} on {record['data']}"].append(record)
    lines: list[str] = []
    for problem, rows in by_problem.items():
        first = rows[0]
        share = first["exact_ms"] / first["vanilla_step_ms"]
        lines += [
            f"**{problem}: {first['entries']:,} entries, {first['rows']:,} rows a "
            f"batch, {first['images']:,} images, {first['epochs']} epochs; exact "
            f"statistics take {100 * share:.1f} % of a vanilla step**",
            "",
            "| statistics | error of the update: median | largest | time of the "
            "statistics | final accuracy |",
            "| --- | ---: | ---: | ---: | ---: |",
            *map(estimate_row, rows),
            "",
        ]
    last = records[-1]
    lines.append(f"{len(last['accuracy'])} seeds; {source(last, ESTIMATES)}.")
    return "\n".join(lines)


def estimate_row(record: dict[str, Any]) -> str:
    """One setting: its name, and what was measured of it."""
    setting, accuracy = record["setting"], record["accuracy"]
    reached = f"{statistics.mean(accuracy):.3f} ± {statistics.stdev(accuracy):.3f}"
    if isinstance(setting, str):
        name = {"vanilla": "none (vanilla)", "exact": "exact"}[setting]
        cells = ["-", "-", "-"] if setting == "vanilla" else ["0 %", "0 %", "1"]
    else:
        plain = Estimate()
        name = ", ".join(
            f"{key}={value:g}"
            for key, value in setting.items()
            if value != getattr(plain, key)
        )
        cells = [
            f"{100 * record['error_median']:.0f} %",
            f"{100 * record['error_max']:.0f} %",
            f"{record['time']:.2f}",
        ]
    return f"| {' | '.join([name, *cells, reached])} |"


def gram_section() -> str:
    """Table of the ways to XᵀX."""
    records = load(GRAM)
    lines = [
        "Milliseconds of XᵀX alone (median), by tiles and by shifts along the best "
        "dimension; `loss`: the chosen way's time over the best way's.",
        "",
        "| setting | input | kernel / stride | tiles | shifts | ratio | chosen "
        "| loss |",
        "| --- | --- | --- | ---: | ---: | ---: | --- | ---: |",
    ]
    for record in records:
        times, geometry = record["ms"], record["geometry"]
        shifts = min((t for way, t in times.items() if way != "tiles"), default=None)
        size, stride = (
            "x".join(map(str, geometry[k])) for k in ("kernel_size", "stride")
        )
        loss = times[record["chosen"]] / min(times.values())
        lines.append(
            f"| {record['setting']} | {'x'.join(map(str, record['shape']))} | "
            f"{size} / {stride} | {times['tiles']:.2f} | "
            + (f"{shifts:.2f} | {shifts / times['tiles']:.2f}" if shifts else "- | -")
            + f" | {record['chosen']} | {loss:.2f} |"
        )
    return "\n".join([*lines, "", source(records[-1], GRAM) + "."])


def pipelines_section() -> str:
    """Table of how fast images are made ready."""
    if not PIPELINES.exists():
        return "Not measured yet: `python -m benchmarks.pipelines`."
    records = load(PIPELINES)
    lines = [
        "| augmentation | resident, images/s | torchvision image by image, images/s "
        "| ratio |",
        "| --- | ---: | ---: | ---: |",
    ]
    for record in records:
        rates = {
            way: sorted(record["images"] / seconds for seconds in of_way)
            for way, of_way in record["seconds"].items()
        }
        resident, single = rates["resident"], rates["single"]
        ratio = statistics.median(
            slow / fast
            for fast, slow in zip(
                record["seconds"]["resident"], record["seconds"]["single"], strict=True
            )
        )
        lines.append(
            f"| {record['augment']} | {spread(resident)} | {spread(single)} "
            f"| {ratio:.1f} |"
        )
    last = records[-1]
    count = len(last["seconds"]["single"])
    note = (
        f"Median [smallest, largest] of {count} interleaved rounds, per second of "
        "processor time"
    )
    return "\n".join([*lines, "", f"{note}; {source(last, PIPELINES)}."])


def spread(values: list[float]) -> str:
    """Median and range of sorted values."""
    return f"{statistics.median(values):,.0f} [{values[0]:,.0f}, {values[-1]:,.0f}]"


def jax_section() -> str:
    """Jitted steps with and without TrAct, and where the figures come from."""
    lines = [
        "| step | batch | vanilla, ms | ratio [quartiles] |",
        "| --- | --- | ---: | ---: |",
    ]
    records = load(JAX_STEPS)
    for record in records:
        low, middle, high = record["ratio"]
        vanilla = 1e3 * statistics.median(record["seconds"]["vanilla"])
        lines.append(
            f"| {record['case']} | {record['batch']} of {record['size']} px | "
            f"{vanilla:.3g} | {middle:.3f} [{low:.3f}, {high:.3f}] |"
        )
    rounds = len(records[0]["seconds"]["vanilla"])
    last = f"{source(records[0], JAX_STEPS)}, jax {records[0]['versions']['jax']}"
    return "\n".join([*lines, "", f"{last}; {rounds} interleaved rounds."])
