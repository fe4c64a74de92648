"""Write the README's tables and plot from the committed records: never by hand.

python -m benchmarks.readme [--check]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from trainact.lab.plots import save_curves
from trainact.lab.records import Record, RecordFile
from trainact.lab.report import Arm, summarise
from trainact.lab.tables import NOTE, markdown_table, title

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
CURVES = ROOT / "docs" / "compare.png"
COMPARISONS = ("cifar10-10k", "digits")
STEPS = ROOT / "records" / "benchmarks" / "steps-cpu.jsonl"


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


def fill(text: str, name: str, content: str) -> str:
    """Replace what stands between the marks of a region."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        sys.exit(f"README.md has no region {name!r}")
    return pattern.sub(lambda _: f"{begin}\n{content}\n{end}", text)


def generate() -> str:
    """The README as the records want it."""
    text = fill(README.read_text(), "compare", compare_section())
    return fill(text, "steps", steps_section())


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
        if generate() != README.read_text():
            sys.exit("README.md is not what the records say: make readme")
        return
    README.write_text(generate())
    draw()


if __name__ == "__main__":
    main()
