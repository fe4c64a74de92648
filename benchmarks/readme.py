"""Write the documents' figures and plot from the committed records: never by hand.

python -m benchmarks.readme [--check]
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from trainact import Estimate
from trainact.lab.plots import save_curves
from trainact.lab.records import Record, RecordFile
from trainact.lab.report import Arm, summarise
from trainact.lab.tables import NOTE, markdown_table, title

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
CURVES = ROOT / "docs" / "compare.png"
COMPARISONS = ("cifar10-10k", "digits")
STEPS = ROOT / "records" / "benchmarks" / "steps-cpu.jsonl"
WAYS = ROOT / "docs" / "ways-of-training.md"
CHEAPER = ROOT / "docs" / "cheaper-statistics.md"
ESTIMATES = ROOT / "records" / "benchmarks" / "estimates.jsonl"
EXACTNESS = ROOT / "records" / "benchmarks" / "exactness.jsonl"


def load_comparison(name: str) -> tuple[dict[str, list[Arm]], list[Record]]:
    """Read and aggregate one committed comparison."""
    records, warnings = RecordFile(ROOT / f"records/compare/{name}.jsonl").read()
    if warnings:
        sys.exit("\n".join(warnings))
    return summarise(records), records


def compare_section() -> str:
    """Tables of the committed comparisons, with where they come from."""
    lines = [f"![accuracy over epochs]({CURVES.relative_to(ROOT)})", ""]
    for name in COMPARISONS:
        report, records = load_comparison(name)
        for arms in report.values():
            heading = f"{title(arms, records)}, {records[0].data['train']:,} images"
            lines += [f"**{heading}**", "", *markdown_table(arms), ""]
        last = records[-1]
        lines += [
            f"`{last.command}`, torch {last.versions['torch']}, {last.device}, "
            f"{last.threads} threads; from `records/compare/{name}.jsonl`.",
            "",
        ]
    return "\n".join([*lines, NOTE])


def steps_section() -> str:
    """Table of whole training steps."""
    records = [json.loads(line) for line in STEPS.read_text().splitlines()]
    lines = [
        "Whole training steps, ratio to vanilla: median of interleaved rounds [95 % "
        "interval of the median]. `vanilla again` is the same model twice: what the "
        "machine's noise looks like.",
        "",
        "| case | arm | ratio | quartiles | ms |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for record in records:
        for arm, row in record["arms"].items():
            if arm != "vanilla":
                lines.append(
                    f"| {record['case']} | {arm} | {row['ratio_median']:.3f} "
                    f"[{row['median_low_95']:.3f}, {row['median_high_95']:.3f}] | "
                    f"{row['ratio_p25']:.3f} to {row['ratio_p75']:.3f} | "
                    f"{row['median_ms']:.0f} |"
                )
    last = records[-1]
    rounds = " / ".join(str(record["rounds"]) for record in records)
    lines += [
        "",
        f"{rounds} rounds, torch {last['torch']}, {last['device']}, "
        f"{last['threads']} threads; `make bench`, from "
        f"`{STEPS.relative_to(ROOT)}`. Not measured on a GPU yet.",
    ]
    return "\n".join(lines)


def errors() -> dict[str, str]:
    """Largest error of each way of training by dtype, and where they come from."""
    records = [json.loads(line) for line in EXACTNESS.read_text().splitlines()]
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
    last = records[-1]
    cells["setting"] = (
        f"`{last['command']}`, torch {last['torch']}, {last['device']}; from "
        f"`{EXACTNESS.relative_to(ROOT)}`"
    )
    return cells


def estimates_section() -> str:
    """A table for each problem on which cheaper statistics were measured."""
    records = [json.loads(line) for line in ESTIMATES.read_text().splitlines()]
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
    lines.append(
        f"{len(last['accuracy'])} seeds; `{last['command']}`, torch {last['torch']}, "
        f"{last['device']}, {last['threads']} thread; from "
        f"`{ESTIMATES.relative_to(ROOT)}`."
    )
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


def fill(text: str, name: str, content: str, gap: str = "\n") -> str:
    """Replace what stands between the marks of a region."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        sys.exit(f"no document has a region {name!r}")
    return pattern.sub(lambda _: f"{begin}{gap}{content}{gap}{end}", text)


def generate() -> dict[Path, str]:
    """The documents as the records want them."""
    readme = fill(README.read_text(), "compare", compare_section())
    ways = WAYS.read_text()
    for name, cell in errors().items():
        if f"<!-- {name}: begin -->" in ways:
            ways = fill(ways, name, cell, gap="")
    cheaper = fill(CHEAPER.read_text(), "estimates", estimates_section())
    readme = fill(readme, "steps", steps_section())
    return {README: readme, WAYS: ways, CHEAPER: cheaper}


def draw() -> None:
    """Draw all committed comparisons in one picture."""
    report: dict[str, list[Arm]] = {}
    titles: list[str] = []
    for name in COMPARISONS:
        arms_of, records = load_comparison(name)
        for model, arms in arms_of.items():
            report[f"{name} {model}"] = arms
            titles.append(title(arms, records))
    CURVES.parent.mkdir(exist_ok=True)
    save_curves(report, titles, CURVES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing")
    if parser.parse_args().check:
        for path, text in generate().items():
            if text != path.read_text():
                sys.exit(f"{path.name} is not what the records say: make readme")
        return
    for path, text in generate().items():
        path.write_text(text)
    draw()


if __name__ == "__main__":
    main()
