"""Write the documents' figures and plot from the committed records: never by hand.

python -m benchmarks.readme [--check]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.first_layer_pages import (
    EXTENSIONS,
    FIRST_LAYER,
    extensions_page,
    first_layer_page,
)
from benchmarks.scaling_sections import scaling_cells, scaling_sections
from benchmarks.sections import (
    errors,
    estimates_section,
    fill,
    gram_section,
    jax_section,
    load,
    load_runs,
    pipelines_section,
    source,
)
from benchmarks.why_plots import save_pictures
from benchmarks.why_tables import MEASURES, why_section
from benchmarks.why_tables import RECORDS as WHY_RECORDS
from trainact.lab.bench.plot import save_plot
from trainact.lab.bench.records import BenchRecord, bench_file, latest
from trainact.lab.bench.tables import (
    BRIEF_COLUMNS,
    LAYER_COLUMNS,
    SCALING_COLUMNS,
    STEP_COLUMNS,
    brief_rows,
    layer_rows,
    notes,
    scaling_rows,
    step_rows,
)
from trainact.lab.plots import save_curves
from trainact.lab.recipe_status import choices_section, recipes_section
from trainact.lab.summary import Arm, summarise
from trainact.lab.table_text import markdown
from trainact.lab.tables import NOTE, markdown_table, title

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
INDEX = ROOT / "docs" / "index.md"
CURVES = ROOT / "docs" / "compare.png"
COMPARISONS = [
    ROOT / "records" / "compare" / f"{name}.jsonl" for name in ("cifar10-10k", "digits")
]
STEPS = sorted((ROOT / "records" / "benchmarks").glob("steps-*.jsonl"))
UNMEASURED = "Not measured yet with this version: `make bench`, then `make readme`."
PERFORMANCE = ROOT / "docs" / "performance.md"
WAYS = ROOT / "docs" / "ways-of-training.md"
CHEAPER = ROOT / "docs" / "cheaper-statistics.md"
STATISTICS = ROOT / "docs" / "statistics.md"
SCALING = ROOT / "docs" / "scaling.md"
JAX = ROOT / "docs" / "jax.md"
JAX_DIGITS = ROOT / "records" / "jax" / "digits.jsonl"
RECIPES = ROOT / "docs" / "recipes.md"
REPRODUCTION = ROOT / "docs" / "reproduction.md"
RECIPE_CURVES = ROOT / "docs" / "recipes.png"
WHY = ROOT / "docs" / "why-it-works.md"
RECIPE_RUNS = sorted((ROOT / "records" / "recipes").glob("*.jsonl"))


def compare_section(page: Path, paths: Sequence[Path]) -> str:
    """Tables of committed comparisons, with where they come from."""
    curves = CURVES.relative_to(page.parent)
    lines = [f"![accuracy over epochs]({curves})", ""]
    for path in paths:
        lines += results(path)
    return fill(page.read_text(), "compare", "\n".join([*lines, NOTE]))


def results(path: Path) -> list[str]:
    """What one command gave: a table for each model, and where it comes from."""
    lines: list[str] = []
    records = load_runs(path)
    for arms in summarise(records).values():
        heading = f"{title(arms, records)}, {records[0].data['train']:,} images"
        lines += [f"**{heading}**", "", *markdown_table(arms), ""]
    return [*lines, f"{source(vars(records[-1]), path)}.", ""]


def why_page() -> str:
    """What is asked of a first layer and what a step obtains, a part for each kind."""
    page, records = WHY.read_text(), load(WHY_RECORDS)
    for measure in MEASURES:
        some = [record for record in records if record["measure"] == measure]
        page = fill(page, f"why-{measure}", "\n".join(why_section(some)))
    return page


def recipes_page() -> str:
    """How fast images are made ready."""
    return fill(RECIPES.read_text(), "pipelines", pipelines_section())


def reproduction_page() -> str:
    """What was run of each recipe and gave what, and what is uncertain about it."""
    runs = [
        (str(path.relative_to(ROOT)), record)
        for path in RECIPE_RUNS
        for record in load_runs(path)
    ]
    page = fill(REPRODUCTION.read_text(), "recipes", "\n".join(recipes_section(runs)))
    page = fill(page, "choices", "\n".join(choices_section()))
    lines = [f"![accuracy over epochs]({RECIPE_CURVES.name})", ""] if runs else []
    for path in RECIPE_RUNS:
        lines += results(path)
    return fill(page, "results", "\n".join([*lines, NOTE] if runs else ["None yet."]))


def scaling_page() -> str:
    """What TrAct adds on many devices: by the formulas, modelled and measured."""
    page = SCALING.read_text()
    for name, content in scaling_sections().items():
        page = fill(page, name, content)
    for name, cell in scaling_cells().items():
        page = fill(page, name, cell, gap="")
    return page


def jax_page() -> str:
    """What TrAct costs in JAX, and what the example gave."""
    page = fill(JAX.read_text(), "jax-steps", jax_section())
    return fill(page, "jax-digits", "\n".join([*results(JAX_DIGITS), NOTE]))


def load_steps(path: Path) -> list[BenchRecord]:
    """Read one device's benchmark, the last record of everything."""
    records, warnings = bench_file(path).read()
    if warnings:
        sys.exit("\n".join(warnings))
    return latest(records)


def steps_section() -> str:
    """Table of whole training steps in float32."""
    if not STEPS:
        return UNMEASURED
    lines: list[str] = []
    for path in STEPS:
        records = [r for r in load_steps(path) if r.mode.name == "eager-fp32"]
        rows = brief_rows(records)
        lines += [*markdown(BRIEF_COLUMNS, rows, left=2), "", where(records, path), ""]
    if not any("gpu" in path.name for path in STEPS):
        lines += ["Not measured on a GPU yet.", ""]
    return "\n".join(lines[:-1])


def where(records: list[BenchRecord], path: Path) -> str:
    """The machine, the software and the command."""
    last = records[-1]
    rounds = sorted({record.rounds for record in records})
    return (
        f"{last.device}, {last.threads} threads, torch {last.versions['torch']}, "
        f"{' or '.join(map(str, rounds))} rounds, λ = {last.lam:g}; `{last.command}` "
        f"at {(last.commit or 'no commit')[:7]}, from `{path.relative_to(ROOT)}`."
    )


def picture_of(path: Path) -> Path:
    return PERFORMANCE.with_name(path.stem.replace("steps", "performance") + ".png")


def performance_section() -> str:
    """All tables and plots, one part for each file of records."""
    if not STEPS:
        return UNMEASURED
    lines: list[str] = []
    for path in STEPS:
        records = load_steps(path)
        cases = [record for record in records if record.axis is None]
        last = records[-1]
        gigabytes = last.ceilings.bytes_per_s / 1e9
        lines += [
            f"## {last.device}",
            "",
            where(records, path),
            f"Measured ceilings: {gigabytes:.1f} GB/s, "
            f"{last.ceilings.flops / 1e9:,.0f} GFLOP/s in float32.",
            "",
            f"![steps, extra time, scaling]({picture_of(path).name})",
            "",
            "### Whole training steps",
            "",
            *markdown(STEP_COLUMNS, step_rows(cases)),
            "",
            "### The first layer alone",
            "",
            *markdown(LAYER_COLUMNS, layer_rows(cases)),
            "",
            *(f"- {note}" for note in notes(cases)),
            "",
            "### Scaling of the layer's extra time",
            "",
            *markdown(SCALING_COLUMNS, scaling_rows(records), left=3),
            "",
        ]
    return "\n".join(lines[:-1])


def generate() -> dict[Path, str]:
    """The documents as the records want them."""
    readme = compare_section(README, COMPARISONS[:1])
    ways = WAYS.read_text()
    for name, cell in errors().items():
        if f"<!-- {name}: begin -->" in ways:
            ways = fill(ways, name, cell, gap="")
    return {
        README: fill(readme, "steps", steps_section()),
        INDEX: compare_section(INDEX, COMPARISONS),
        WAYS: ways,
        RECIPES: recipes_page(),
        REPRODUCTION: reproduction_page(),
        SCALING: scaling_page(),
        JAX: jax_page(),
        FIRST_LAYER: first_layer_page(),
        EXTENSIONS: extensions_page(),
        WHY: why_page(),
        CHEAPER: fill(CHEAPER.read_text(), "estimates", estimates_section()),
        STATISTICS: fill(STATISTICS.read_text(), "gram", gram_section()),
        PERFORMANCE: fill(
            PERFORMANCE.read_text(), "performance", performance_section()
        ),
    }


def draw_runs(paths: Sequence[Path], picture: Path) -> None:
    """Draw the accuracy of committed runs, a panel for each model of each file."""
    report: dict[str, list[Arm]] = {}
    titles: list[str] = []
    for path in paths:
        records = load_runs(path)
        for model, arms in summarise(records).items():
            report[f"{path.stem} {model}"] = arms
            titles.append(title(arms, records))
    save_curves(report, titles, picture)


def draw() -> None:
    """Draw all committed comparisons in one picture, and each device's benchmark."""
    draw_runs(COMPARISONS, CURVES)
    if RECIPE_RUNS:
        draw_runs(RECIPE_RUNS, RECIPE_CURVES)
    for path in STEPS:
        save_plot(load_steps(path), picture_of(path))
    save_pictures(load(WHY_RECORDS))


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
