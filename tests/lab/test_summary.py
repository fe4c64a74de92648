"""Aggregation over seeds, with numbers worked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.lab.conftest import CONFIG, make_record
from trainact.lab.records import Record
from trainact.lab.summary import first_epoch_at, mean_and_std, summarise
from trainact.lab.tables import arm_cells, markdown

TRACT = replace(CONFIG, method="tract", lam=0.1)


def runs(config=CONFIG, *curves: tuple[float, ...]) -> list[Record]:
    return [
        make_record(replace(config, seed=seed), accuracy=curve)
        for seed, curve in enumerate(curves)
    ]


def test_final_accuracy_is_mean_and_std_with_bessels_correction() -> None:
    arms = summarise(runs(CONFIG, (0.1, 0.2, 0.4), (0.1, 0.2, 0.6)))["mlp"]
    assert arms[0].final_mean == pytest.approx(0.5)
    assert arms[0].final_std == pytest.approx(0.02**0.5)  # not 0.1: n - 1 = 1
    assert arms[0].seeds == (0, 1)


def test_epochs_are_those_of_the_mean_curve_also_for_vanilla() -> None:
    # Vanilla's means: 0.5, 0.8, 0.7: its final level 0.7 is first met in epoch 2.
    vanilla = runs(CONFIG, (0.4, 0.9, 0.7), (0.6, 0.7, 0.7))
    # TrAct's means: 0.7, 0.6, 0.9: epoch 1, so twice as fast.
    tract = runs(TRACT, (0.6, 0.5, 0.9), (0.8, 0.7, 0.9))
    first, second = summarise([*vanilla, *tract])["mlp"]
    assert (first.epochs_to_baseline, first.speed_up) == (2, 1.0)
    assert (second.epochs_to_baseline, second.speed_up) == (1, 2.0)


def test_an_arm_that_never_gets_there_has_a_dash() -> None:
    vanilla = runs(CONFIG, (0.5, 0.6, 0.7))
    tract = runs(TRACT, (0.5, 0.6, 0.69))
    arm = summarise([*vanilla, *tract])["mlp"][1]
    assert arm.epochs_to_baseline is None
    assert arm_cells(arm) == ("tract λ=0.1", "0.6900", "-", "-", "0.2", "1")


def test_without_vanilla_there_is_no_speed_up() -> None:
    arm = summarise(runs(TRACT, (0.5, 0.6, 0.7)))["mlp"][0]
    assert (arm.epochs_to_baseline, arm.speed_up) == (None, None)


def test_a_diverged_run_counts_with_the_accuracy_it_was_left_with() -> None:
    good, bad = runs(CONFIG, (0.5, 0.6, 0.7), (0.5, 0.1))
    bad = replace(bad, diverged=True)
    arm = summarise([good, bad])["mlp"][0]
    assert arm.mean_curve == pytest.approx((0.5, 0.35, 0.4))
    assert arm_cells(arm)[1] == "0.4000 ± 0.4243"
    assert arm_cells(arm)[-1] == "2 (1 lost)"


def test_models_and_lambdas_are_kept_apart() -> None:
    other = replace(TRACT, lam=0.2)
    records = [
        make_record(config)
        for config in (CONFIG, TRACT, other, replace(CONFIG, model="small-cnn"))
    ]
    report = summarise(records)
    assert {model: [arm.label for arm in arms] for model, arms in report.items()} == {
        "mlp": ["vanilla", "tract λ=0.1", "tract λ=0.2"],
        "small-cnn": ["vanilla"],
    }


def test_seconds_are_the_median_so_that_the_first_epoch_does_not_count() -> None:
    record = make_record(seconds=(9.0, 0.1, 0.2))
    assert summarise([record])["mlp"][0].seconds_per_epoch == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("curve", "level", "epoch"),
    [((0.1, 0.2, 0.3), 0.2, 2), ((0.3, 0.1), 0.2, 1), ((0.1, 0.1), 0.2, None)],
)
def test_first_epoch(curve: tuple[float, ...], level: float, epoch: int | None) -> None:
    assert first_epoch_at(curve, level) == epoch


def test_means_that_differ_by_rounding_are_equal() -> None:
    forward, _ = mean_and_std([(0.1,), (0.2,), (0.3,)])
    assert first_epoch_at((forward[0] - 1e-16,), forward[0]) == 1


def test_markdown_holds_every_arm_and_where_it_comes_from() -> None:
    records = [make_record(CONFIG), make_record(TRACT)]
    text = markdown(summarise(records), records, "2 of 2 runs")
    assert "## mlp on digits: sgd lr 0.1, cosine, batch 64, 3 epochs" in text
    assert "| vanilla | 0.7000 | 3 | 1.00x | 0.2 | 1 |" in text
    assert "| tract λ=0.1 | 0.7000 | 3 | 1.00x | 0.2 | 1 |" in text
    assert "torch 2 on abacus (2 threads)" in text
