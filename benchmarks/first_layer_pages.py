"""`docs/first-layer-benchmark.md` and `docs/extensions.md`, filled in from records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.equal_budgets import budgets_section, layers_section
from benchmarks.first_layer import (
    damping_section,
    extension_section,
    optimizer_section,
    overview_section,
    treatment_section,
)
from benchmarks.sections import ROOT, fill, load, load_runs, source
from trainact.lab.analysis import GIVEN
from trainact.lab.records import Record
from trainact.lab.summary import BASELINE

Section = Callable[[Sequence[Record]], list[str]]
FIRST_LAYER = ROOT / "docs" / "first-layer-benchmark.md"
EXTENSIONS = ROOT / "docs" / "extensions.md"
TREATMENTS = ROOT / "records" / "benchmarks" / "treatments-cpu.jsonl"
BUDGETS = sorted((ROOT / "records" / "budgets").glob("*.jsonl"))
STUDIES = sorted((ROOT / "records" / "studies").glob("*.jsonl"))


# Complete trainings: region of the page → what their recipes are called, and a section.
COMPLETE: dict[str, tuple[str, Section]] = {
    "budgets": ("equal-budgets", budgets_section),
    "whole": ("whole-cifar10", budgets_section),
    "resnet": ("resnet-budgets", partial(budgets_section, readings=(GIVEN,))),
    "layers": ("layers", layers_section),
}


def studies(
    paths: Sequence[Path] = STUDIES, family: str = ""
) -> tuple[list[Record], list[str]]:
    """Runs of all studies, and by which commands on what they were made."""
    runs: list[Record] = []
    origins: dict[str, None] = {}
    for path in paths:
        records = [r for r in load_runs(path) if str(r.recipe).startswith(family)]
        runs += records
        origins |= dict.fromkeys(f"- {source(vars(r), path)}." for r in records)
    return runs, list(origins)


def step_costs() -> tuple[dict[tuple[str, str, str], float], str]:
    """What a step takes with each treatment, and where that was measured."""
    records = load(TREATMENTS)
    costs = {
        (r["model"], r["optimizer"], r["method"]): r["ratio"]
        for r in records
        if r["baseline"] == BASELINE
    }
    return costs, f"- {source(records[-1], TREATMENTS)}."


def first_layer_page() -> str:
    """Which treatment of a first layer gave what."""
    (runs, origins), (costs, origin) = studies(), step_costs()
    treatments, rates = treatment_section(runs, costs), optimizer_section(runs)
    page = FIRST_LAYER.read_text()
    for region, (family, section) in COMPLETE.items():
        complete, sources = studies(BUDGETS, family)
        lines = [*section(complete), "", *sources]
        page = fill(page, region, "\n".join(lines).strip())
    page = fill(page, "overview", "\n".join(overview_section(runs)))
    page = fill(page, "treatments", "\n".join(treatments).strip())
    page = fill(page, "optimizers", "\n".join(rates).strip())
    return fill(page, "origins", "\n".join([*origins, origin]))


def extensions_page() -> str:
    """What TrAct's extensions gave."""
    (runs, _), (costs, _) = studies(), step_costs()
    damping, others = damping_section(runs), extension_section(runs, costs)
    page = fill(EXTENSIONS.read_text(), "damping", "\n".join(damping).strip())
    return fill(page, "extensions", "\n".join(others).strip())
