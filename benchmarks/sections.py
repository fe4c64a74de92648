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
from trainact.lab.table_text import markdown

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "records" / "benchmarks"
EXACTNESS = RECORDS / "exactness.jsonl"
ESTIMATES = RECORDS / "estimates.jsonl"
GRAM = RECORDS / "gram-cpu.jsonl"
PIPELINES = RECORDS / "pipelines-cpu.jsonl"
JAX_STEPS = RECORDS / "jax-cpu.jsonl"
ESTIMATE_COLUMNS = (
    "statistics",
    "error of the update: median",
    "largest",
    "time of the statistics",
    "final accuracy",
)


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
            *markdown(ESTIMATE_COLUMNS, list(map(estimate_row, rows)), left=1),
            "",
        ]
    last = records[-1]
    lines.append(f"{len(last['accuracy'])} seeds; {source(last, ESTIMATES)}.")
    return "\n".join(lines)


def estimate_row(record: dict[str, Any]) -> tuple[str, ...]:
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
    return name, *cells, reached


def gram_section() -> str:
    """Table of the ways to XᵀX."""
    records = load(GRAM)
    columns = ("setting", "input", "kernel / stride", "tiles", "shifts", "ratio")
    lines = [
        "Milliseconds of XᵀX alone (median), by tiles and by shifts along the best "
        "dimension; `loss`: the chosen way's time over the best way's.",
        "",
        *markdown((*columns, "chosen", "loss"), list(map(gram_row, records))),
    ]
    return "\n".join([*lines, "", source(records[-1], GRAM) + "."])


def gram_row(record: dict[str, Any]) -> tuple[str, ...]:
    """One layer: its geometry, and the time of each way."""
    times, geometry = record["ms"], record["geometry"]
    tiles, chosen = times["tiles"], record["chosen"]
    shifts = min((t for way, t in times.items() if way != "tiles"), default=None)
    size, stride = ("x".join(map(str, geometry[k])) for k in ("kernel_size", "stride"))
    compared = ("-", "-") if not shifts else (f"{shifts:.2f}", f"{shifts / tiles:.2f}")
    loss = times[chosen] / min(times.values())
    shape = "x".join(map(str, record["shape"]))
    where = record["setting"], shape, f"{size} / {stride}"
    return *where, f"{tiles:.2f}", *compared, chosen, f"{loss:.2f}"


def pipelines_section() -> str:
    """Table of how fast images are made ready."""
    if not PIPELINES.exists():
        return "Not measured yet: `python -m benchmarks.pipelines`."
    records = load(PIPELINES)
    rates = ("resident, images/s", "torchvision image by image, images/s", "ratio")
    rows = list(map(pipeline_row, records))
    last = records[-1]
    count = len(last["seconds"]["single"])
    note = (
        f"Median [smallest, largest] of {count} interleaved rounds, per second of "
        "processor time"
    )
    table = markdown(("augmentation", *rates), rows, left=1)
    return "\n".join([*table, "", f"{note}; {source(last, PIPELINES)}."])


def pipeline_row(record: dict[str, Any]) -> tuple[str, ...]:
    """One augmentation: images a second both ways, and how many times as many."""
    seconds, count = record["seconds"], record["images"]
    pairs = zip(seconds["resident"], seconds["single"], strict=True)
    ratio = statistics.median(slow / fast for fast, slow in pairs)
    resident, single = (
        spread(sorted(count / s for s in seconds[way]))
        for way in ("resident", "single")
    )
    return record["augment"], resident, single, f"{ratio:.1f}"


def spread(values: list[float]) -> str:
    """Median and range of sorted values."""
    return f"{statistics.median(values):,.0f} [{values[0]:,.0f}, {values[-1]:,.0f}]"


def jax_section() -> str:
    """Jitted steps with and without TrAct, and where the figures come from."""
    records = load(JAX_STEPS)
    columns = ("step", "batch", "vanilla, ms", "ratio [quartiles]")
    table = markdown(columns, list(map(jax_row, records)), left=2)
    rounds = len(records[0]["seconds"]["vanilla"])
    last = f"{source(records[0], JAX_STEPS)}, jax {records[0]['versions']['jax']}"
    return "\n".join([*table, "", f"{last}; {rounds} interleaved rounds."])


def jax_row(record: dict[str, Any]) -> tuple[str, ...]:
    """One step: its batch, vanilla's time and the ratio."""
    low, middle, high = record["ratio"]
    vanilla = 1e3 * statistics.median(record["seconds"]["vanilla"])
    batch = f"{record['batch']} of {record['size']} px"
    return (
        record["case"],
        batch,
        f"{vanilla:.3g}",
        f"{middle:.3f} [{low:.3f}, {high:.3f}]",
    )
