"""The tables of the first-layer benchmark and of the extensions: as the records."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.first_layer import (
    damping_section,
    extension_section,
    optimizer_section,
    overview_section,
    treatment_section,
)
from tests.lab.conftest import CONFIG, make_record
from trainact.lab.records import Record

# (method, lr) -> final accuracy of seeds 0, 1, 2.
RUNS = {
    ("vanilla", 0.1): (0.50, 0.52, 0.54),
    ("vanilla", 0.2): (0.40, 0.40, 0.40),
    ("tract", 0.1): (0.50, 0.50, 0.53),
    ("tract", 0.2): (0.60, 0.64, 0.65),
    ("tract+sgd", 0.1): (0.55, 0.53, 0.54),
}
EXTENSIONS = {
    ("tract-relative", 0.1): (0.70, 0.70, 0.71),
    ("tract-relative", 0.2): (0.60, 0.60, 0.61),
    ("tract-joint", 0.1): (0.99, 0.99, 0.99),  # not tuned yet
}
COSTS = {("mlp", "sgd", "vanilla"): 1.0, ("mlp", "sgd", "tract"): 1.5}


def records(runs: dict[tuple[str, float], tuple[float, ...]] = RUNS) -> list[Record]:
    found: list[Record] = []
    for (method, lr), accuracies in runs.items():
        for seed, accuracy in enumerate(accuracies):
            lam = 0.1 if "tract" in method else None
            config = replace(
                CONFIG, method=method, lam=lam, lr=lr, seed=seed, data="cifar10"
            )
            data = {"train": 8, "shape": [3, 32, 32]}  # on which steps are timed
            found.append(make_record(config, accuracy=(0.1, accuracy), data=data))
    return found


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def interval(first: float, second: float) -> str:
    """Of the mean of two differences: 12.706 is Student's t for one degree."""
    mean, half = (first + second) / 2, 12.706 * abs(first - second) / 2
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"


# Seeds 1 and 2 of TrAct at 0.2 over vanilla's at 0.1: seed 0 chose both rates.
FRESH = interval(12, 11)


def test_every_arm_at_its_own_best_rate() -> None:
    in_any_order = records()[::-1]
    heading, _, titles, _, vanilla, tract, apart, _ = optimizer_section(in_any_order)
    assert f"{CONFIG.optimizer}, {CONFIG.epochs} epochs" in heading
    assert cells(titles) == ["method", "lr 0.1", "lr 0.2", "gain", "seeds"]
    rates = ["**52.00 ± 2.00**", "40.00 ± 0.00"]
    assert cells(vanilla) == ["vanilla", *rates, "", "3"]
    rates = ["51.00 ± 1.73", "**63.00 ± 2.65**"]
    assert cells(tract) == ["tract λ=0.1", *rates, FRESH, "3"]
    assert cells(apart)[1:3] == ["**54.00 ± 1.00**", ""]


def test_the_first_seed_tunes() -> None:
    runs = RUNS | {("tract", 0.2): (0.49, 0.99, 0.99)}
    *_, tract, _, _ = optimizer_section(records(runs))
    assert cells(tract)[1:3] == ["**51.00 ± 1.73**", "82.33 ± 28.87"]


def test_missing_runs_and_seeds() -> None:
    some = [
        record
        for record in records()
        if record.config.seed != 1 or record.config.method == "vanilla"
        if record.config.lr == 0.1 or record.config.method == "vanilla"
    ]
    *_, vanilla, tract, _, _ = optimizer_section(some)
    assert cells(vanilla)[-1] == "3"
    assert cells(tract) == [
        "tract λ=0.1",
        "**51.50 ± 2.12**",
        "",
        "-1.00 (one seed)",
        "2",
    ]


def test_treatments_against_vanilla() -> None:
    lines = treatment_section(records(RUNS | EXTENSIONS), COSTS)
    titles, _, vanilla, tract, relative, _ = lines[2:]
    last = ["epochs", "step", "time", "seeds"]
    assert cells(titles) == ["method", "lr", "accuracy", "gain", *last]
    # A record's curve is its first and its last epoch here.
    # A star: at the edge of what was tried.
    plain = ["0.1 *", "52.00 ± 2.00", "", "2", "1.00", "1.00", "3"]
    assert cells(vanilla)[1:] == plain
    found = ["0.2 *", "63.00 ± 2.65", FRESH, "2", "1.50", "1.50", "3"]
    assert cells(tract)[1:] == found
    assert cells(relative)[0] == "tract-relative λ=0.1"
    assert cells(relative)[4:] == ["2", "", "", "3"]


def test_steps_on_other_images_have_no_cost() -> None:
    small = [replace(r, data={"train": 8, "shape": [1, 8, 8]}) for r in records()]
    for line in treatment_section(small, COSTS)[4:-1]:
        assert cells(line)[5:7] == ["", ""]


def test_no_star_inside_of_what_was_tried() -> None:
    runs = {
        (method, lr): (0.5 - abs(lr - 0.2),)
        for method in ("vanilla", "tract")
        for lr in (0.1, 0.2, 0.3)
    }
    for row in treatment_section(records(runs), {})[4:-1]:
        assert cells(row)[1:3] == ["0.2", "50.00"]


def test_a_treatment_that_never_gets_there_says_so() -> None:
    runs = RUNS | {("patchnorm", lr): (0.3, 0.3, 0.3) for lr in (0.1, 0.2)}
    lines = treatment_section(records(runs), {})[4:-1]
    rows = {cells(line)[0]: cells(line) for line in lines}
    assert rows["patchnorm"][4:] == ["never", "", "", "3"]


def test_at_a_glance() -> None:
    titles, _, row = overview_section(records(RUNS | EXTENSIONS))
    gains = dict(zip(cells(titles), cells(row), strict=True))
    assert gains["vanilla"] == "52.00 ± 2.00"
    assert gains["tract"] == FRESH
    assert gains["whitening"] == ""
    one_seed = [r for r in records() if r.config.seed == 0]
    assert cells(overview_section(one_seed)[2])[2] == ""
    plain = [r for r in records() if r.config.method == "vanilla"]
    assert overview_section(plain)[2:] == treatment_section(plain, {}) == []


def test_extensions_against_tract() -> None:
    lines = extension_section(records(RUNS | EXTENSIONS), {})
    _, _, _, tract, relative, _ = lines[2:]
    assert cells(tract)[:4] == ["tract λ=0.1", "0.2 *", "63.00 ± 2.65", ""]
    assert cells(relative)[3] == "+6.00 (in all)"
    assert len(extension_section(records(), {})) == 0


def test_damping() -> None:
    found = []
    for pixels, accuracy in (("0-1", 0.2), ("0-255", 0.3), ("cifar10", 0.4)):
        for method, lam in (("tract-relative", 0.1), ("tract", 1.0), ("tract", 0.1)):
            given = {"method": method, "lam": lam, "normalise": pixels}
            config = replace(CONFIG, **given)
            found.append(make_record(config, accuracy=(accuracy + lam / 10,)))
    other = replace(CONFIG, method="tract", lam=0.1, lr=7.0, normalise="cifar10")
    found.append(make_record(other, accuracy=(0.99,)))
    rows = [cells(line) for line in damping_section(found)[4:-1]]
    assert rows == [
        ["tract λ=0.1", "21.00", "31.00", "41.00"],
        ["tract λ=1", "30.00", "40.00", "50.00"],
        ["tract-relative λ=0.1", "21.00", "31.00", "41.00"],
    ]
    # Each network has a table of its own.
    vit = [replace(r, config=replace(r.config, model="small-vit")) for r in found[:3]]
    lines = damping_section([*found, *vit])
    headings = [line for line in lines if line.startswith("**")]
    assert [line[2:].partition(" ")[0] for line in headings] == ["mlp", "small-vit"]
    assert all(line.endswith(f"learning rate {CONFIG.lr:g}**") for line in headings)
    assert cells(lines[-2]) == ["tract-relative λ=0.1", "21.00", "", ""]
    # λ = 1 and other inputs have no place among the treatments.
    one = treatment_section((r for r in found if r.config.lr != 7.0), {})
    assert [cells(line)[0] for line in one[4:-1]] == []


@pytest.mark.parametrize("change", ["optimizer", "epochs", "data", "limit"])
def test_what_differs_has_a_table_of_its_own(change: str) -> None:
    other = {"optimizer": "adam", "epochs": 99, "data": "digits", "limit": 98}[change]
    data = {"train": 98, "shape": [3, 32, 32]}
    second = [
        replace(r, config=replace(r.config, **{change: other}), data=data)
        for r in records()
    ]
    lines = optimizer_section([*records(), *second])
    assert sum(line.startswith("**") for line in lines) == 2
    assert str(other) in [line for line in lines if line.startswith("**")][1]
