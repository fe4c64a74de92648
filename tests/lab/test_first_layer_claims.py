"""What `docs/first-layer-benchmark.md` says in words is what the records say."""

from __future__ import annotations

from statistics import fmean

import pytest
from scipy.stats import ttest_rel

from benchmarks.first_layer_pages import step_costs
from tests.lab.study_runs import (
    DIGITS,
    DIGITS_RESNET,
    FINE_TUNED,
    MIXER,
    RESNET,
    RUNS,
    TINY,
    VIT,
    Runs,
    accuracies,
    best,
    best_rate,
    gain,
    runs_of,
)
from trainact.lab.summary import summarise_arms

_WITHOUT_EFFECT = ("relative", "joint", "running", "sampled", "rising", "falling")


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
        at = best_rate(RUNS, optimizer, method), high
        runs = [RUNS[optimizer, method, lr][0] for lr in at]
        assert runs[0] - runs[1] == pytest.approx(loss, abs=1 if loss > 5 else 0.3)


def test_a_vit_under_adamw_is_ahead_but_not_surely() -> None:
    for lr in (0.001, 0.003, 0.01, 0.03):
        assert VIT["adamw", "tract", lr][0] > VIT["adamw", "vanilla", lr][0]
    tract, vanilla = (best("adamw", method, VIT) for method in ("tract", "vanilla"))
    assert fmean(tract) - fmean(vanilla) == pytest.approx(1.6, abs=0.05)
    assert ttest_rel(tract, vanilla).pvalue > 0.1


def test_a_small_resnet_gains_as_the_cnn_does() -> None:
    assert gain("sgd", "tract", RESNET) == pytest.approx(2.9, abs=0.06)
    for lr in (0.05, 0.1, 0.2, 0.4):
        assert RESNET["sgd", "tract", lr][0] > RESNET["sgd", "vanilla", lr][0] + 1
    losses = []
    for method in ("vanilla", "tract"):
        runs = [RESNET["sgd", method, lr][0] for lr in (0.1, 0.4)]
        losses.append(runs[0] - runs[1])
    assert losses == pytest.approx([2.6, 0.9], abs=0.06)
    tract, vanilla = (best("sgd", method, RESNET) for method in ("tract", "vanilla"))
    assert ttest_rel(tract, vanilla).pvalue == pytest.approx(0.074, abs=0.001)


def test_fine_tuning_gains_at_the_best_rate_only() -> None:
    for lr in (0.05, 0.1, 0.2, 0.4):
        own, other = (FINE_TUNED["sgd", m, lr][0] for m in ("tract", "vanilla"))
        assert 0 < own - other < 0.25
    tract, vanilla = (best("sgd", m, FINE_TUNED) for m in ("tract", "vanilla"))
    assert fmean(tract) - fmean(vanilla) == pytest.approx(1.5, abs=0.05)
    assert ttest_rel(tract, vanilla).pvalue < 0.01


def test_of_the_size_of_lambda_little_depends() -> None:
    at = {
        lam: accuracies("small-cnn", lam=lam)["sgd", "tract", 0.1][0]
        for lam in (0.01, 0.1, 1.0)
    }
    assert max(at.values()) - min(at.values()) < 0.55
    assert min(at.values()) > RUNS["sgd", "vanilla", 0.1][0] + 1.5


@pytest.mark.parametrize(
    ("method", "gained"), [("tract", 7.7), ("whitening", 8.2), ("tract-all", 10.9)]
)
def test_tiny_imagenet(method: str, gained: float) -> None:
    assert gain("sgd", method, TINY) == pytest.approx(gained, abs=0.06)
    own, vanilla = best("sgd", method, TINY), best("sgd", "vanilla", TINY)
    assert ttest_rel(own, vanilla).pvalue < 0.05


def test_on_tiny_imagenet_whitening_adds_nothing_to_tract() -> None:
    tract, whitening, both = (
        best("sgd", method, TINY)
        for method in ("tract", "whitening", "whitening+tract")
    )
    for one in (tract, whitening):
        assert abs(fmean(both) - fmean(one)) < 1
        assert ttest_rel(both, one).pvalue > 0.1
    assert best_rate(TINY, "sgd", "tract") == 2 * best_rate(TINY, "sgd", "vanilla")


@pytest.mark.parametrize("model", ["small-vit", "small-mixer"])
def test_on_digits_patches_are_so_small_that_treatments_do_not_matter(
    model: str,
) -> None:
    """But normalised, patches of four entries lose what was in them."""
    runs = DIGITS[model]
    same = {m for _, m, _ in runs if m.startswith("tract-") and m != "tract-all"}
    assert len(same) == 7
    for method in (*same, "tract", "kfac", "vanilla+muon", "vanilla+soap"):
        assert abs(gain("adamw", method, runs)) < 1
    for method, lost in (("patchnorm", 2.9), ("dual-patchnorm", 1.8), ("zca", 4.4)):
        assert gain("adamw", method, runs) < -lost


def test_on_digits_a_resnet_is_at_its_ceiling() -> None:
    arms = {method for _, method, _ in DIGITS_RESNET}
    assert len(arms) == 5
    for method in arms:
        assert abs(gain("sgd", method, DIGITS_RESNET)) < 0.8


@pytest.mark.parametrize("model", DIGITS)
def test_on_digits_extensions_are_what_tract_is(model: str) -> None:
    optimizer = "sgd" if model == "small-cnn" else "adamw"
    tract = fmean(best(optimizer, "tract", DIGITS[model]))
    for name in (*_WITHOUT_EFFECT, "scaled"):
        own = best(optimizer, f"tract-{name}", DIGITS[model])
        assert abs(fmean(own) - tract) < 0.5


def test_tract_is_nowhere_behind() -> None:
    """By more than one image of the digits'; Muon has a test of its own."""
    on_digits = (*DIGITS.values(), DIGITS_RESNET)
    for runs in (RUNS, VIT, RESNET, MIXER, FINE_TUNED, TINY, *on_digits):
        arms = {(optimizer, method) for optimizer, method, _ in runs}
        # The ViT on digits under LAMB is in the test of LAMB.
        apart = {"muon", "lamb"} if runs is DIGITS["small-vit"] else {"muon"}
        for optimizer in {o for o, m in arms if m == "tract"} - apart:
            with_seeds = runs[optimizer, "tract", best_rate(runs, optimizer, "tract")]
            if len(with_seeds) > 1:
                assert gain(optimizer, "tract", runs) > -0.23


def test_a_mixer_under_adamw() -> None:
    assert gain("adamw", "tract", MIXER) == pytest.approx(2.85, abs=0.05)
    tract, vanilla = (best("adamw", method, MIXER) for method in ("tract", "vanilla"))
    assert ttest_rel(tract, vanilla).pvalue == pytest.approx(0.13, abs=0.005)


@pytest.mark.parametrize(
    ("method", "gained"), [("patchnorm", 1.5), ("dual-patchnorm", 2.1), ("zca", 3.4)]
)
def test_normalised_patches_gain_less_and_whitened_inputs_no_less(
    method: str, gained: float
) -> None:
    own, vanilla, tract = (best("sgd", m) for m in (method, "vanilla", "tract"))
    assert ttest_rel(own, vanilla).pvalue < 0.05
    assert fmean(own) - fmean(vanilla) == pytest.approx(gained, abs=0.1)
    assert (fmean(own) < fmean(tract)) == (method != "zca")
    assert method != "zca" or ttest_rel(own, tract).pvalue > 0.2


@pytest.mark.parametrize(
    "method", ["kfac", "tract-scaled", *(f"tract-{name}" for name in _WITHOUT_EFFECT)]
)
def test_three_seeds_show_no_difference_to_tract(method: str) -> None:
    own, tract = best("sgd", method), best("sgd", "tract")
    assert ttest_rel(own, tract).pvalue > 0.2
    if method == "tract-rising":
        assert fmean(own) - fmean(tract) == pytest.approx(0.7, abs=0.05)
    else:
        assert abs(fmean(own) - fmean(tract)) < 0.5


def test_on_every_layer_it_is_by_far_the_best() -> None:
    every = best("sgd", "tract-all")
    uncertain = {"whitening+tract", "zca"}
    methods = ("vanilla", "tract", "whitening", "kfac", "patchnorm", "dual-patchnorm")
    for method in (*methods, *uncertain):
        others = best("sgd", method)
        assert fmean(every) - fmean(others) > 3
        is_sure = ttest_rel(every, others).pvalue < 0.05
        assert is_sure == (method not in uncertain)
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


def test_without_a_norm_under_adam_nothing_makes_raw_pixels_like_others() -> None:
    of = {pixels: accuracies("small-vit", pixels) for pixels in ("0-1", "0-255")}
    vanilla, tract, scaled = (
        {pixels: runs["adamw", method, 0.001][0] for pixels, runs in of.items()}
        for method in ("vanilla", "tract", "tract-scaled")
    )
    standardised = {m: VIT["adamw", m, 0.001][0] for m in ("vanilla", "tract")}
    for form in (tract, scaled):
        assert form["0-1"] - vanilla["0-1"] == pytest.approx(2, abs=0.05)
        assert form["0-255"] < standardised["tract"] - 16
    assert list(tract.values()) == pytest.approx([44.2, 27.4], abs=0.05)
    assert list(scaled.values()) == pytest.approx([44.2, 28.6], abs=0.05)
    lost = standardised["vanilla"] - vanilla["0-255"]
    assert lost == pytest.approx(11, abs=0.5)


def test_a_first_look_at_30_epochs() -> None:
    runs = accuracies("small-cnn", epochs=30)
    found = {
        method: max(runs["sgd", method, lr][0] for lr in (0.2, 0.4))
        for method in ("vanilla", "tract", "whitening")
    }
    assert found["tract"] - found["vanilla"] == pytest.approx(1.45, abs=0.05)
    assert found["whitening"] - found["vanilla"] == pytest.approx(1.1, abs=0.05)


@pytest.mark.parametrize(
    ("images", "runs", "time"),
    [("cifar10", RUNS, 1.18), ("tiny-imagenet-50", TINY, 0.94)],
    ids=["cifar10", "tiny-imagenet-50"],
)
def test_on_every_layer_it_is_about_as_soon_at_what_vanilla_training_reaches(
    images: str, runs: Runs, time: float
) -> None:
    costs = step_costs()[0]
    cost, *others = (
        costs[f"small-{model}", optimizer, "tract-all"]
        for model, optimizer in (("cnn", "sgd"), ("vit", "adamw"), ("resnet", "sgd"))
    )
    assert [cost, *others] == pytest.approx([1.9, 1.1, 2.6], abs=0.05)
    rates = {m: best_rate(runs, "sgd", m) for m in ("vanilla", "tract-all")}
    chosen = [
        record
        for record in runs_of("small-cnn", images=images)
        if (config := record.config).optimizer == "sgd"
        and config.lr == rates.get(config.method)
    ]
    vanilla, every = summarise_arms(chosen)
    assert (vanilla.method, every.method) == ("vanilla", "tract-all")
    assert every.speed_up
    assert cost / every.speed_up == pytest.approx(time, abs=0.01)
