"""What `docs/first-layer-benchmark.md` says in words is what the records say."""

from __future__ import annotations

from functools import cache
from statistics import fmean
from typing import Any

import pytest
from scipy.stats import ttest_rel

from benchmarks.first_layer_pages import TREATMENTS, step_costs, studies
from benchmarks.sections import load
from trainact.lab import tuning
from trainact.lab.records import Record
from trainact.lab.summary import summarise_arms

_WITHOUT_EFFECT = ("relative", "joint", "running", "sampled", "rising", "falling")
SMALL, LARGE = (0.001, 0.003), (0.01, 0.03)


@cache
def runs_of(
    model: str,
    pixels: str = "cifar10",
    epochs: int = 8,
    images: str = "cifar10",
    lam: float = 0.1,
    is_pretrained: bool = False,
) -> list[Record]:
    """With this λ, where there is one."""
    alike = model, epochs, pixels, is_pretrained
    return [
        record
        for record in studies()[0]
        if (c := record.config).lam in (None, lam)
        and (c.model, c.epochs, c.normalise, c.initial is not None) == alike
        and c.data.endswith(images)
        and c.limit in (None, 10_000)
    ]


# Per cent, by optimizer, method and learning rate, then by seed.
Runs = dict[tuple[str, str, float], dict[int, float]]


def accuracies(*alike: Any, **more: Any) -> Runs:
    """Of the last epoch."""
    found: Runs = {}
    for record in runs_of(*alike, **more):
        config = record.config
        key = config.optimizer, config.method, config.lr
        found.setdefault(key, {})[config.seed] = 100 * record.accuracy[-1]
    return found


RUNS, VIT, RESNET, MIXER = (
    accuracies(f"small-{model}") for model in ("cnn", "vit", "resnet", "mixer")
)
FINE_TUNED = accuracies("small-cnn", epochs=4, is_pretrained=True)
TINY = accuracies("small-cnn", images="tiny-imagenet-50")
DIGITS = {
    model: accuracies(model, "data", images="digits")
    for model in ("small-cnn", "small-vit", "small-mixer")
}
DIGITS_RESNET = accuracies("small-resnet", "data", images="digits")


def best_rate(runs: Runs, optimizer: str, method: str) -> float:
    """The one that the first seed chose."""
    return tuning.best_rate(
        {lr: of[0] for (o, m, lr), of in runs.items() if (o, m) == (optimizer, method)}
    )


def best(optimizer: str, method: str, runs: Runs = RUNS) -> list[float]:
    """At the arm's best rate, seed by seed."""
    found = runs[optimizer, method, best_rate(runs, optimizer, method)]
    return [found[seed] for seed in sorted(found)]


def gain(optimizer: str, method: str, runs: Runs) -> float:
    """Over vanilla training, each at its own best rate."""
    own, vanilla = (best(optimizer, m, runs) for m in (method, "vanilla"))
    return fmean(own) - fmean(vanilla)


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


def test_tract_is_nowhere_behind() -> None:
    """By more than two images of the digits'; Muon has a test of its own."""
    on_digits = (*DIGITS.values(), DIGITS_RESNET)
    for runs in (RUNS, VIT, RESNET, MIXER, FINE_TUNED, TINY, *on_digits):
        arms = {(optimizer, method) for optimizer, method, _ in runs}
        for optimizer in {o for o, m in arms if m == "tract"} - {"muon"}:
            with_seeds = runs[optimizer, "tract", best_rate(runs, optimizer, "tract")]
            if len(with_seeds) > 1:
                assert gain(optimizer, "tract", runs) > -0.4


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
    curves = {
        (optimizer, config.seed): record.accuracy
        for record in runs_of("small-cnn")
        for optimizer, lr in (("sgd", 0.4), ("muon", 0.03))
        if (config := record.config).method == "vanilla"
        if (config.optimizer, config.lr) == (optimizer, lr)
    }
    sgd, muon = (
        [fmean(at) for at in zip(*(curves[o, seed] for seed in range(3)), strict=True)]
        for o in ("sgd", "muon")
    )
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
    assert ttest_rel(tract, vanilla).pvalue > 0.3
    assert gain("lamb", "tract-all", vit) == pytest.approx(6.8, abs=0.05)


def test_a_mixer_under_adamw() -> None:
    assert gain("adamw", "tract", MIXER) == pytest.approx(2.85, abs=0.05)
    tract, vanilla = (best("adamw", method, MIXER) for method in ("tract", "vanilla"))
    assert ttest_rel(tract, vanilla).pvalue == pytest.approx(0.13, abs=0.005)


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
        assert RUNS["adam", "vanilla+sgd", lr][0] < RUNS["adam", "vanilla", lr][0]
    assert fmean(best("adam", "tract+sgd")) < fmean(best("adam", "tract"))


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
    small, raw, plain = (
        {
            method: runs["adamw", method, 0.001][0]
            for method in ("vanilla", "tract", "tract-scaled")
            if ("adamw", method, 0.001) in runs
        }
        for runs in (accuracies("small-vit", of) for of in ("0-1", "0-255", "cifar10"))
    )
    forms = ("tract", "tract-scaled")
    for form in forms:
        assert small[form] - small["vanilla"] == pytest.approx(2, abs=0.05)
        assert raw[form] < plain["tract"] - 16
    assert [small[form] for form in forms] == pytest.approx([44.2, 44.2], abs=0.05)
    assert [raw[form] for form in forms] == pytest.approx([27.4, 28.6], abs=0.05)
    assert plain["vanilla"] - raw["vanilla"] == pytest.approx(11, abs=0.5)


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
