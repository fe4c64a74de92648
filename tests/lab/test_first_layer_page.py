"""The tables of the first-layer benchmark say what the records say."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scipy.stats import ttest_rel

from benchmarks.first_layer import optimizer_section
from tests.lab.conftest import CONFIG, make_record
from trainact.lab.records import Record

# (method, lr) -> final accuracy of seeds 0, 1, 2.
RUNS = {
    ("vanilla", 0.1): (0.50, 0.52, 0.54),
    ("vanilla", 0.2): (0.40, 0.40, 0.40),
    ("tract", 0.1): (0.50, 0.50, 0.53),
    ("tract", 0.2): (0.60, 0.64, 0.65),
}


def records() -> list[Record]:
    found: list[Record] = []
    for (method, lr), accuracies in RUNS.items():
        for seed, accuracy in enumerate(accuracies):
            lam = 0.1 if method == "tract" else None
            config = replace(CONFIG, method=method, lam=lam, lr=lr, seed=seed)
            found.append(make_record(config, accuracy=(0.1, accuracy)))
    return found


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_arm_at_its_own_best_rate() -> None:
    in_any_order = records()[::-1]
    heading, _, titles, _, vanilla, tract, _ = optimizer_section(in_any_order)
    assert f"{CONFIG.optimizer}, {CONFIG.epochs} epochs" in heading
    assert cells(titles) == ["method", "lr 0.1", "lr 0.2", "gain", "p", "seeds"]
    rates = ["**52.00 ± 2.00**", "40.00 ± 0.00"]
    assert cells(vanilla) == ["vanilla", *rates, "", "", "3"]
    p = ttest_rel(RUNS["tract", 0.2], RUNS["vanilla", 0.1]).pvalue
    rates = ["51.00 ± 1.73", "**63.00 ± 2.65**"]
    assert cells(tract) == ["tract λ=0.1", *rates, "+11.00", f"{p:.2g}", "3"]


def test_missing_runs_and_seeds() -> None:
    some = [
        record
        for record in records()
        if record.config.seed != 1 or record.config.method == "vanilla"
        if record.config.lr == 0.1 or record.config.method == "vanilla"
    ]
    *_, vanilla, tract, _ = optimizer_section(some)
    assert cells(vanilla)[-1] == "3"
    assert cells(tract) == ["tract λ=0.1", "**51.50 ± 2.12**", "", "-0.50", "0.5", "2"]


@pytest.mark.parametrize("change", ["optimizer", "epochs", "data"])
def test_what_differs_has_a_table_of_its_own(change: str) -> None:
    other = {"optimizer": "adam", "epochs": 99, "data": "cifar10"}[change]
    first = make_record(replace(CONFIG, method="vanilla"))
    second = make_record(replace(CONFIG, method="vanilla", **{change: other}))
    lines = optimizer_section([first, second])
    assert sum(line.startswith("**") for line in lines) == 2
    assert str(other) in [line for line in lines if line.startswith("**")][1]
