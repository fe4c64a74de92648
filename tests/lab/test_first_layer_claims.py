"""What `docs/first-layer-benchmark.md` says in words is what the records say."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import pytest
from scipy.stats import ttest_rel

from benchmarks.first_layer_pages import step_costs, studies
from trainact.lab.records import Record
from trainact.lab.summary import summarise_arms

BEST = {"sgd": 0.4, "adam": 0.03}
# Arms that are best at another rate.
OWN_BEST = {"patchnorm": 0.8, "whitening+tract": 0.8, "kfac": 0.8, "tract-all": 0.2}
SMALL, LARGE = (0.001, 0.003), (0.01, 0.03)


def runs_of(model: str, pixels: str = "cifar10", epochs: int = 8) -> list[Record]:
    """With λ = 0.1, where there is one."""
    alike = model, epochs, pixels, None
    return [
        record
        for record in studies()[0]
        if (c := record.config).lam in (None, 0.1)
        and (c.model, c.epochs, c.normalise, c.initial) == alike
    ]


def accuracies(
    *alike: Any, **more: Any
) -> dict[tuple[str, str, float], dict[int, float]]:
    """In per cent, by optimizer, method and learning rate, then by seed."""
    found: dict[tuple[str, str, float], dict[int, float]] = {}
    for record in runs_of(*alike, **more):
        config = record.config
        key = config.optimizer, config.method, config.lr
        found.setdefault(key, {})[config.seed] = 100 * record.accuracy[-1]
    return found


RUNS, VIT = accuracies("small-cnn"), accuracies("small-vit")


def best(optimizer: str, method: str) -> list[float]:
    """At the arm's best rate, seed by seed."""
    runs = RUNS[optimizer, method, OWN_BEST.get(method, BEST[optimizer])]
    others = [v for (o, m, _), v in RUNS.items() if (o, m) == (optimizer, method)]
    assert all(runs[0] >= other[0] for other in others)
    return [runs[seed] for seed in (0, 1, 2)]


@pytest.mark.parametrize(
    ("optimizer", "method"),
    [("sgd", "tract"), ("sgd", "whitening"), ("adam", "tract"), ("adam", "tract+sgd")],
)
def test_gains(optimizer: str, method: str) -> None:
    own, vanilla = best(optimizer, method), best(optimizer, "vanilla")
    assert fmean(own) - fmean(vanilla) > 2
    assert ttest_rel(own, vanilla).pvalue < 0.05


def test_whitening_is_a_match_and_both_are_not_surely_more() -> None:
    tract, whitening, both = (
        best("sgd", method) for method in ("tract", "whitening", "whitening+tract")
    )
    assert abs(fmean(tract) - fmean(whitening)) < 0.5
    assert 0.5 < fmean(both) - max(fmean(tract), fmean(whitening)) < 1
    for one in (tract, whitening):
        assert ttest_rel(both, one).pvalue > 0.05


@pytest.mark.parametrize(
    ("optimizer", "high", "lost"),
    [("sgd", 0.8, (3.7, 0.6)), ("adam", 0.1, (14.0, 7.0))],
)
def test_a_rate_that_is_too_high(optimizer: str, high: float, lost: tuple) -> None:
    for method, loss in zip(("vanilla", "tract"), lost, strict=True):
        runs = [RUNS[optimizer, method, lr][0] for lr in (BEST[optimizer], high)]
        assert runs[0] - runs[1] == pytest.approx(loss, abs=1 if loss > 5 else 0.3)


def test_a_vit_under_adamw_is_ahead_but_not_surely() -> None:
    rates = (0.001, 0.003, 0.01, 0.03)
    first = {
        method: [VIT["adamw", method, lr][0] for lr in rates]
        for method in ("vanilla", "tract")
    }
    pairs = zip(first["tract"], first["vanilla"], strict=True)
    assert all(own > plain for own, plain in pairs)
    best_runs = {
        method: [
            VIT["adamw", method, rates[runs.index(max(runs))]][s] for s in range(3)
        ]
        for method, runs in first.items()
    }
    tract, vanilla = best_runs["tract"], best_runs["vanilla"]
    assert fmean(tract) - fmean(vanilla) == pytest.approx(1.6, abs=0.05)
    assert ttest_rel(tract, vanilla).pvalue > 0.1


def test_adam_needs_a_rate_that_is_high_enough() -> None:
    gains = {
        lr: RUNS["adam", "tract", lr][0] - RUNS["adam", "vanilla", lr][0]
        for lr in (*SMALL, *LARGE)
    }
    assert all(abs(gains[lr]) < 0.5 for lr in SMALL)
    assert all(gains[lr] > 1.5 for lr in LARGE)


def test_one_scale_for_each_output_is_no_better() -> None:
    own, plain = best("adam", "tract+row-adam"), best("adam", "tract")
    assert ttest_rel(own, plain).pvalue > 0.2
    assert abs(fmean(own) - fmean(plain)) < 0.5


def test_sgd_of_its_own_helps_while_the_rate_is_small() -> None:
    for lr in SMALL:
        others = ("vanilla", "tract", "tract+row-adam", "vanilla+row-adam")
        lead = max(RUNS["adam", method, lr][0] for method in others)
        assert RUNS["adam", "tract+sgd", lr][0] > lead + 1
        assert RUNS["adam", "vanilla+sgd", lr][0] < RUNS["adam", "vanilla", lr][0]
    assert fmean(best("adam", "tract+sgd")) < fmean(best("adam", "tract"))


def test_patchnorm_gains_less_and_more_than_nothing() -> None:
    own, vanilla = best("sgd", "patchnorm"), best("sgd", "vanilla")
    assert ttest_rel(own, vanilla).pvalue < 0.05
    assert fmean(own) - fmean(vanilla) == pytest.approx(1.5, abs=0.1)
    assert fmean(own) < fmean(best("sgd", "tract"))


@pytest.mark.parametrize("method", ["kfac", "tract-relative", "tract-joint"])
def test_three_seeds_show_no_difference_to_tract(method: str) -> None:
    own, tract = best("sgd", method), best("sgd", "tract")
    assert ttest_rel(own, tract).pvalue > 0.2
    assert abs(fmean(own) - fmean(tract)) < 0.5


def test_on_every_layer_it_is_by_far_the_best() -> None:
    every = best("sgd", "tract-all")
    for method in ("vanilla", "tract", "whitening", "whitening+tract", "kfac"):
        others = best("sgd", method)
        assert fmean(every) - fmean(others) > 3
        is_sure = ttest_rel(every, others).pvalue < 0.05
        assert is_sure == (method != "whitening+tract")
    for lr in (0.05, 0.1, 0.2, 0.4):
        assert RUNS["sgd", "tract-all", lr][0] > RUNS["sgd", "tract", 0.4][0] + 1.5


def test_in_the_units_of_the_input_its_scale_does_not_matter() -> None:
    """And it is ahead of vanilla training at all, where plain TrAct is not."""
    means = []
    for pixels in ("0-1", "0-255", "cifar10"):
        runs = accuracies("small-cnn", pixels)
        plain, tract, own = (
            [runs["sgd", method, 0.1][seed] for seed in (0, 1, 2)]
            for method in ("vanilla", "tract", "tract-scaled")
        )
        assert fmean(own) - fmean(plain) == pytest.approx(2, abs=0.25)
        assert ttest_rel(own, plain).pvalue < 0.05
        assert (fmean(tract) > fmean(plain)) == (pixels != "0-255")
        means.append(fmean(own))
    assert max(means) - min(means) == pytest.approx(1.1, abs=0.1)


def test_a_first_look_at_30_epochs() -> None:
    runs = accuracies("small-cnn", epochs=30)
    found = {
        method: max(runs["sgd", method, lr][0] for lr in (0.2, 0.4))
        for method in ("vanilla", "tract", "whitening")
    }
    assert found["tract"] - found["vanilla"] == pytest.approx(1.45, abs=0.05)
    assert found["whitening"] - found["vanilla"] == pytest.approx(1.1, abs=0.05)


def test_on_every_layer_it_is_no_faster_to_what_vanilla_training_reaches() -> None:
    costs, _ = step_costs()
    assert costs["small-cnn", "sgd", "tract-all"] == pytest.approx(2, abs=0.2)
    arms = {arm.method: arm for arm in summarise_arms(at_best("vanilla", "tract-all"))}
    epochs = [arms[method].epochs_to_baseline for method in ("vanilla", "tract-all")]
    assert costs["small-cnn", "sgd", "tract-all"] * epochs[1] / epochs[0] > 1


def at_best(*methods: str) -> list[Record]:
    """Runs under SGD, each method at its own best rate."""
    rates = {method: OWN_BEST.get(method, BEST["sgd"]) for method in methods}
    return [
        record
        for record in runs_of("small-cnn")
        if (config := record.config).method in rates
        and (config.optimizer, config.lr) == ("sgd", rates[config.method])
    ]
