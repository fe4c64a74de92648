"""Comparisons of trainings, on made records whose answers are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest

from benchmarks.equal_budgets import budgets_section, layers_section
from benchmarks.first_layer_pages import COMPLETE
from tests.lab.conftest import CONFIG, make_record
from trainact.lab.analysis import (
    GIVEN,
    OWN,
    VANILLAS,
    chosen_rates,
    differences,
    holm,
    reading,
    run_table,
    speed_up,
)
from trainact.lab.recipes import STUDIES
from trainact.lab.records import Record

TRACT = "tract λ=0.1"
BEST = {"vanilla": 0.2, "tract": 0.4}
# Student's t for 2 degrees of freedom and 95 %.
T2 = 4.302653


def run(method: str, epochs: int, lr: float, seed: int, accuracy: float) -> Record:
    config = replace(
        CONFIG,
        method=method,
        lam=0.1 if method == "tract" else None,
        epochs=epochs,
        lr=lr,
        seed=seed,
        evaluated="test" if seed else "held-out",
    )
    seconds = (1.5 if method == "tract" else 1.0,) * epochs
    return make_record(config, accuracy=(accuracy,), seconds=seconds)


Accuracy = Callable[[str, int, int], float]


def made(accuracy: Accuracy, seeds: int) -> list[Record]:
    """Vanilla at 8, 16 and 32 epochs and TrAct at 8; 0.01 less at a worse rate."""
    lengths = [("vanilla", 8), ("vanilla", 16), ("vanilla", 32), ("tract", 8)]
    return [
        run(method, epochs, lr, seed, accuracy(method, epochs, seed) - lost)
        for (method, epochs), lr, seed in product(
            lengths, (0.1, 0.2, 0.4, 0.8), range(seeds + 1)
        )
        for lost in [0.0 if lr == BEST[method] else 0.01]
    ]


def table(accuracy: Accuracy, seeds: int = 3) -> pd.DataFrame:
    return run_table(made(accuracy, seeds))


def by_log(method: str, epochs: int, seed: int) -> float:
    """A doubling of epochs is worth 0.1; TrAct is worth half a doubling."""
    ahead = 0.05 if method == "tract" else 0.0
    return 0.5 + 0.1 * math.log2(epochs / 8) + ahead + 0.01 * seed


def test_rates_are_those_of_the_held_out_images() -> None:
    runs = table(by_log)
    assert chosen_rates(runs)[0, TRACT, 8] == 0.4
    assert chosen_rates(runs)[0, "vanilla", 32] == 0.2
    # What the fresh seeds would have chosen does not matter.
    fresh = runs.seed > 0
    runs.loc[fresh & (runs.lr == 0.8), ["accuracy", "score"]] += 1
    assert chosen_rates(runs)[0, TRACT, 8] == 0.4
    at_edge = chosen_rates(runs[runs.lr <= 0.4])
    assert (0, TRACT, 8) not in at_edge
    assert at_edge[0, "vanilla", 8] == 0.2


def test_what_is_reported_is_of_fresh_seeds_on_test_images() -> None:
    runs = table(by_log)
    for which, rate in ((OWN, 0.4), (VANILLAS, 0.2)):
        rows = reading(runs, which)
        assert set(rows.seed) == {1, 2, 3}
        assert set(rows.evaluated) == {"test"}
        assert set(rows.lr[rows.arm == TRACT]) == {rate}
        assert set(rows.lr[rows.arm == "vanilla"]) == {0.2}
        assert len(rows) == 4 * 3


def noisy(method: str, epochs: int, seed: int) -> float:
    """TrAct is ahead by 6, 7 and 8 points."""
    noise = {1: 0.01, 2: 0.02, 3: 0.03}.get(seed, 0) if method == "tract" else 0
    return by_log(method, epochs, seed) + noise


def test_paired_differences_against_as_many_epochs_and_more() -> None:
    found = differences(reading(table(noisy), OWN))
    assert found.vanilla_epochs.tolist() == [8, 16, 32]
    assert found.n.tolist() == [3, 3, 3]
    # Differences of 6, 7 and 8 points, less 10 for each doubling: std 1.
    assert found["mean"].tolist() == pytest.approx([7, -3, -13])
    half = T2 / math.sqrt(3)
    assert (found.high - found["mean"]).tolist() == pytest.approx([half] * 3, abs=1e-4)
    assert (found["mean"] - found.low).tolist() == pytest.approx([half] * 3, abs=1e-4)
    assert found.p_holm.tolist() == pytest.approx(holm(found.p).tolist())


def test_one_seed_has_no_interval() -> None:
    rows = reading(table(by_log, seeds=1), OWN)
    found = differences(rows)
    assert found["mean"].tolist() == pytest.approx([5, -5, -15])
    assert found[["low", "high", "p", "p_holm"]].isna().all(axis=None)
    result = speed_up(rows, TRACT, 8)
    assert result["ratio"] == pytest.approx(math.sqrt(2))
    assert math.isnan(result["low"])


def test_holm_by_hand() -> None:
    """Four: 0.005 x 4, 0.01 x 3, then 0.03 x 2 = 0.06, and 0.04 is raised to it."""
    corrected = holm([0.01, 0.04, 0.03, 0.005])
    assert corrected.tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    some = holm([0.4, math.nan, 0.7])
    assert some[[0, 2]].tolist() == pytest.approx([0.8, 0.8])
    assert np.isnan(some[1])


@pytest.mark.parametrize("which", [OWN, VANILLAS])
def test_the_speed_up_is_interpolated_in_the_logarithm(which: str) -> None:
    """Half a doubling ahead: the square root of 2; 0.1 of one less at 0.01 less."""
    result = speed_up(reading(table(by_log), which), TRACT, 8)
    ratio = 2 ** (0.5 if which == OWN else 0.4)
    # All seeds agree, so every draw of them does.
    assert list(result.values()) == pytest.approx([ratio, ratio, ratio, 3])
    rows = reading(table(by_log), which)
    rows.loc[(rows.epochs == 16) & (rows.seed == 1), "seconds"] *= 9  # a busy machine
    in_time = speed_up(rows, TRACT, 8, "seconds")
    assert in_time["ratio"] == pytest.approx(ratio / 1.5)


def test_the_interval_is_over_seeds() -> None:
    """Of two, one is a doubling ahead: a quarter of the draws has only that one."""

    def accuracy(method: str, epochs: int, seed: int) -> float:
        ahead = 0.1 * (seed - 1) if method == "tract" else 0.0
        return by_log("vanilla", epochs, 0) + ahead

    result = speed_up(reading(table(accuracy, seeds=2), OWN), TRACT, 8, draws=1000)
    assert list(result.values()) == pytest.approx([math.sqrt(2), 1, 2, 2])


@pytest.mark.parametrize(("ahead", "ratio"), [(0.3, math.inf), (-0.1, 0.0)])
def test_outside_of_vanillas_budgets_nothing_is_extrapolated(
    ahead: float, ratio: float
) -> None:
    def accuracy(method: str, epochs: int, seed: int) -> float:
        return by_log(method, epochs, seed) + (ahead if method == "tract" else 0)

    result = speed_up(reading(table(accuracy), OWN), TRACT, 8)
    assert (result["ratio"], result["low"], result["high"]) == (ratio,) * 3


LAYERS = {"linear": ("mlp", 64), "patch": ("small-patches-4", 64)}


def of_layers(accuracy: Accuracy = by_log) -> list[Record]:
    """TrAct is 5 points ahead on patches, 4 behind on whole images, without seeds."""
    every = [r for r in made(accuracy, 3) if r.config.epochs == 8]
    return [
        replace(
            r,
            config=replace(r.config, model=model, batch_size=size, limit=n),
            accuracy=(r.accuracy[0] - (0.09 if model == "mlp" and is_tract else 0),),
        )
        for n, (model, size) in enumerate(LAYERS.values(), 1)
        for r in every
        for is_tract in [r.config.method == "tract"]
        if not (model == "mlp" and is_tract and r.config.seed)
    ]


def test_problems_are_compared_each_with_its_own_baseline() -> None:
    """Holm's correction is over all of them."""
    every = [*of_layers(noisy), *made(noisy, 3)]
    runs = run_table([*every, *every])
    assert len(runs) == len(every), "what is recorded twice counts once"
    assert runs.problem.nunique() == 3
    found = differences(reading(runs, OWN))
    assert found.problem.tolist() == [1, 2, 2, 2]
    assert found["mean"].tolist() == pytest.approx([7, 7, -3, -13])
    assert found.p_holm.tolist() == pytest.approx(holm(found.p).tolist())
    assert found.p_holm[0] == pytest.approx(3 * found.p[0])


def test_first_layers_in_one_table() -> None:
    """An arm that has no fresh seeds shows by how much it was behind held out."""
    own, vanillas = "\n".join(layers_section(of_layers())).split(VANILLAS)
    rows = [line.split(" | ") for line in own.splitlines() if TRACT in line]
    assert [row[0].strip("| ") for row in rows] == ["mlp, 64", "small-patches-4, 64"]
    assert rows[0][2:4] == ["", "-4.00 (held-out images, one seed)"]
    assert rows[1][2:4] == ["57.00 ± 1.00 (0.4)", "+5.00 [+5.00, +5.00]"]
    assert "56.00 ± 1.00 (0.2)" in vanillas


def test_runs_at_a_given_rate() -> None:
    """Nothing was tried on held-out images; seed 0 is not reported either."""
    every = [
        replace(r, config=replace(r.config, evaluated="test"))
        for r in made(by_log, 3)
        if r.config.lr == 0.2
    ]
    rows = reading(run_table(every), GIVEN)
    assert set(rows.seed) == {1, 2, 3}
    assert differences(rows)["mean"].tolist() == pytest.approx([4, -6, -16])
    assert "57.00 ± 1.00 (0.2)" not in "\n".join(budgets_section(every))
    assert "56.00 ± 1.00 (0.2)" in "\n".join(budgets_section(every, (GIVEN,)))


def test_every_recipe_of_complete_trainings_has_its_region() -> None:
    wanted = {"equal": "budgets", "whole": "whole", "resnet": "resnet"}
    families = {"layers": "layers", **wanted}
    for name in STUDIES:
        regions = [
            region
            for region, (family, _) in COMPLETE.items()
            if name.startswith(family)
        ]
        own = families.get(name.partition("-")[0])
        assert regions == ([] if own is None else [own])


def test_tables_do_not_depend_on_the_order_of_records() -> None:
    every = made(noisy, 3)
    assert budgets_section(every[::-1]) == budgets_section(every)


def test_tables_of_records_that_are_not_complete_yet() -> None:
    every = made(by_log, 3)
    text = "\n".join(budgets_section(every))
    own, vanillas = text.split(VANILLAS)
    assert f"| {TRACT} | 57.00 ± 1.00 (0.4) |" in own
    assert f"| {TRACT} | 56.00 ± 1.00 (0.2) |" in vanillas
    for count in range(0, len(every), 7):
        assert budgets_section(every[:count])
        assert budgets_section(every[count:])
    held_out = [r for r in every if r.config.seed == 0]
    one_seed = [r for r in every if r.config.seed == 1]
    assert "(one seed)" in "\n".join(budgets_section([*held_out, *one_seed]))
