"""What `docs/first-layer-benchmark.md` says of optimizers is what the records say."""

from __future__ import annotations

from statistics import fmean

import pytest
from scipy.stats import ttest_rel

from benchmarks.first_layer_pages import TREATMENTS, step_costs
from benchmarks.sections import load
from tests.lab.study_runs import (
    DIGITS,
    RUNS,
    best,
    best_rate,
    gain,
    runs_of,
)
from trainact.lab.summary import summarise_arms

SMALL, LARGE = (0.001, 0.003), (0.01, 0.03)


def test_under_muon_it_does_not_help_and_muon_is_the_best() -> None:
    vit = DIGITS["small-vit"]
    tests = []
    for runs, gained in ((RUNS, -1.05), (vit, 0.5)):
        tract, vanilla = (best("muon", method, runs) for method in ("tract", "vanilla"))
        assert fmean(tract) - fmean(vanilla) == pytest.approx(gained, abs=0.06)
        tests.append(ttest_rel(tract, vanilla).pvalue)
    assert tests == pytest.approx([0.019, 0.32], abs=0.005)
    assert best_rate(RUNS, "muon", "vanilla") == 0.03
    at_vanillas = RUNS["muon", "tract", 0.03]
    assert fmean(at_vanillas.values()) == pytest.approx(67.3, abs=0.05)
    for runs, other, ahead in ((RUNS, "sgd", 9.2), (vit, "adamw", 13.7)):
        vanilla = best("muon", "vanilla", runs)
        lead = fmean(vanilla) - fmean(best(other, "vanilla", runs))
        assert lead == pytest.approx(ahead, abs=0.1)
        every = best(other, "tract-all", runs)
        assert fmean(vanilla) > fmean(every)
    for runs, seeds, reached, ahead in ((RUNS, 1, 67.6, 1.1), (vit, 3, 93.8, 0.4)):
        own, other = (
            best("muon", f"{method}+sgd", runs) for method in ("tract", "vanilla")
        )
        assert fmean(own) == pytest.approx(reached, abs=0.05)
        pairs = zip(own[:seeds], other[:seeds], strict=True)
        assert fmean(a - b for a, b in pairs) == pytest.approx(ahead, abs=0.05)
        assert abs(fmean(own) - fmean(best("muon", "vanilla", runs))) < 0.5


def test_muon_is_sooner_where_sgd_ends() -> None:
    curves: list[tuple[float, ...]] = []
    for optimizer in ("sgd", "muon"):
        how = optimizer, "vanilla", best_rate(RUNS, optimizer, "vanilla")
        (arm,) = summarise_arms(
            record
            for record in runs_of("small-cnn")
            if (c := record.config) and (c.optimizer, c.method, c.lr) == how
        )
        assert arm.seeds == (0, 1, 2)
        curves.append(arm.mean_curve)
    sgd, muon = curves
    assert muon[3] > sgd[-1] > muon[2]
    assert len(sgd) == 8
    assert sgd[-1] == max(sgd)
    (cost,) = (
        record["ratio"]
        for record in load(TREATMENTS)
        if (record["baseline"], record["optimizer"]) == ("sgd", "muon")
    )
    assert cost == pytest.approx(1.29, abs=0.02)
    assert cost * 4 / 8 == pytest.approx(0.65, abs=0.01)


def test_under_lamb_a_cnn_gains() -> None:
    vit = DIGITS["small-vit"]
    assert gain("lamb", "tract", RUNS) == pytest.approx(1.8, abs=0.05)
    tract, vanilla = (best("lamb", method) for method in ("tract", "vanilla"))
    assert ttest_rel(tract, vanilla).pvalue == pytest.approx(0.006, abs=0.0005)
    assert {best_rate(RUNS, "lamb", m) for m in ("tract", "vanilla")} == {0.03}
    tract, vanilla = (best("lamb", method, vit) for method in ("tract", "vanilla"))
    assert fmean(vanilla) - fmean(tract) == pytest.approx(0.4, abs=0.05)
    assert ttest_rel(tract, vanilla).pvalue > 0.3
    assert gain("lamb", "tract-all", vit) == pytest.approx(6.8, abs=0.05)


def test_adam_needs_a_rate_that_is_high_enough() -> None:
    gains = {
        lr: RUNS["adam", "tract", lr][0] - RUNS["adam", "vanilla", lr][0]
        for lr in (*SMALL, *LARGE)
    }
    assert all(abs(gains[lr]) < 0.5 for lr in SMALL)
    assert all(gains[lr] > 1.5 for lr in LARGE)


@pytest.mark.parametrize(
    ("name", "gained", "ahead", "p"),
    [("muon", 2.8, 0.5, 0.04), ("soap", 3.1, 0.7, 0.1)],
)
def test_muon_and_soap_on_the_first_layer_gain_no_less(
    name: str, gained: float, ahead: float, p: float
) -> None:
    method = f"vanilla+{name}"
    own, tract = best("adam", method), best("adam", "tract")
    assert best_rate(RUNS, "adam", method) == best_rate(RUNS, "adam", "tract")
    assert gain("adam", method, RUNS) == pytest.approx(gained, abs=0.05)
    assert fmean(own) - fmean(tract) == pytest.approx(ahead, abs=0.05)
    assert ttest_rel(own, tract).pvalue == pytest.approx(p, abs=0.005)
    assert step_costs()[0]["small-cnn", "adam", method] < 1.03


def test_one_scale_for_each_output_is_no_better() -> None:
    own, plain = best("adam", "tract+row-adam"), best("adam", "tract")
    assert ttest_rel(own, plain).pvalue > 0.2
    assert abs(fmean(own) - fmean(plain)) < 0.5


def test_sgd_of_its_own_helps_while_the_rate_is_small() -> None:
    for lr in SMALL:
        others = ("vanilla", "tract", "tract+row-adam", "vanilla+row-adam")
        lead = max(RUNS["adam", method, lr][0] for method in others)
        assert RUNS["adam", "tract+sgd", lr][0] > lead + 1
        for rival in ("muon", "soap"):
            ahead = (
                RUNS["adam", "tract+sgd", lr][0]
                - RUNS["adam", f"vanilla+{rival}", lr][0]
            )
            assert ahead > 0.2
        assert RUNS["adam", "vanilla+sgd", lr][0] < RUNS["adam", "vanilla", lr][0]
    assert fmean(best("adam", "tract+sgd")) < fmean(best("adam", "tract"))


def test_on_digits_an_sgd_of_its_own_is_what_helps_a_vit() -> None:
    runs = DIGITS["small-vit"]
    plain, tract, both = (
        gain("adamw", method, runs) for method in ("vanilla+sgd", "tract", "tract+sgd")
    )
    assert (plain, tract) == pytest.approx((5.8, 0.5), abs=0.1)
    assert both == pytest.approx(6.7, abs=0.1)
    own, other = (best("adamw", m, runs) for m in ("tract+sgd", "vanilla+sgd"))
    assert ttest_rel(own, other).pvalue > 0.1
    assert gain("adamw", "tract-all", runs) == pytest.approx(7.9, abs=0.1)
