"""What is said about one experiment, with values worked by hand."""

from __future__ import annotations

from dataclasses import replace
from math import atan, pi, sqrt

import pytest

from tests.lab.made_up import (
    TRACT,
    VANILLA,
    by_name,
    expected,
    make_recipe,
    make_runs,
    only_view,
    with_config,
)
from trainact.lab.recipe import Recipe
from trainact.lab.records import Record
from trainact.lab.reporting.arms import ArmResult, LostRun, arm_results
from trainact.lab.reporting.cells import amount, probability, signed, spread, times
from trainact.lab.reporting.scores import PairedTest, paired_test
from trainact.lab.reporting.sections import build_sections
from trainact.lab.reporting.tables import score_tables, speed_table

RECIPE = make_recipe("fig0", VANILLA, replace(TRACT, expected=expected(66.0)))
COLOURS = {"vanilla": "#555555", "tract λ=0.1": "#00ff00"}


def results(records: list[Record], *recipes: Recipe) -> dict[str, ArmResult]:
    view = only_view(records, *(recipes or (RECIPE,)))
    return {arm.label: arm for arm in arm_results(view)}


def test_final_accuracy_gain_and_paired_test() -> None:
    arms = results(
        [
            *make_runs(RECIPE, VANILLA, (0.60, 0.62)),
            *make_runs(RECIPE, TRACT, (0.63, 0.67)),
        ]
    )
    vanilla, tract = arms["vanilla"].top1, arms["tract λ=0.1"].top1
    assert vanilla.mean == pytest.approx(61.0)
    assert vanilla.std == pytest.approx(sqrt(2))  # not 1: n - 1 = 1
    assert (vanilla.gain, vanilla.test) == (None, None)
    assert (tract.mean, tract.std) == pytest.approx((65.0, sqrt(8)))
    assert tract.gain == pytest.approx(4.0)
    # Differences 3 and 5: their mean 4 over std sqrt(2) / sqrt(2); with one degree of
    # freedom t is Cauchy's.
    assert tract.test is not None
    assert tract.test.num_pairs == 2
    assert tract.test.t == pytest.approx(4.0)
    assert tract.test.p == pytest.approx(1 - 2 / pi * atan(4.0))


def test_the_papers_numbers_are_compared_in_the_recipes_own_setting_only() -> None:
    own = results(make_runs(RECIPE, TRACT, (0.65,)))["tract λ=0.1"].top1
    assert (own.paper, own.over_paper) == ((66.0, 0.2), pytest.approx(-1.0))
    short = replace(RECIPE, setting=replace(RECIPE.setting, epochs=2))
    reduced = results(make_runs(short, TRACT, (0.65,)), RECIPE)["tract λ=0.1"].top1
    assert (reduced.paper, reduced.over_paper) == ((66.0, 0.2), None)


def test_the_test_takes_the_seeds_that_both_have() -> None:
    arms = results(
        [
            *make_runs(RECIPE, VANILLA, (0.60, 0.62, 0.64)),
            *make_runs(RECIPE, TRACT, (0.63, 0.67, 0.99), first_seed=1),
        ]
    )
    test = arms["tract λ=0.1"].top1.test
    # Seeds 1 and 2, with differences 1 and 3: 2 over sqrt(2) / sqrt(2).
    assert test is not None
    assert (test.num_pairs, test.t) == (2, pytest.approx(2.0))


def test_there_is_no_test_of_one_seed_and_none_of_equal_differences() -> None:
    assert paired_test([0.5], [0.4]) == PairedTest(1)
    assert paired_test([], []) == PairedTest(0)
    assert paired_test([0.5, 0.6], [0.5, 0.6]) == PairedTest(2)
    assert paired_test([70.1, 70.3, 71.1], [70.0, 70.2, 71.0]) == PairedTest(3)
    # One image of 450 each time, and one of 50,000 more in the second pair.
    assert paired_test([98.4444, 98.6667], [98.2222, 98.4444]) == PairedTest(2)
    assert paired_test([98.4444, 98.6687], [98.2222, 98.4444]).p is not None


def test_one_run_has_neither_std_nor_test_on_the_page() -> None:
    records = [
        *make_runs(RECIPE, VANILLA, (0.60,)),
        *make_runs(RECIPE, TRACT, (0.63,)),
    ]
    (section,) = build_sections(records, by_name(RECIPE))
    (table,) = score_tables(section, COLOURS)
    assert [row.cells for row in table.rows] == [
        ("vanilla", "1", ("60.00", ""), "-", "-", "-", "-", ("-", ""), "-"),
        (
            *("tract λ=0.1", "1", ("63.00", ""), "+3.00", "1", "-", "-"),
            *(("66.00", "± 0.20"), "\N{MINUS SIGN}3.00"),
        ),
    ]
    assert table.groups == [("", 2), ("ours", 3), ("paired t-test", 3), ("paper", 3)]


def test_papers_numbers_beside_shorter_runs_are_labelled_and_not_subtracted() -> None:
    short = replace(RECIPE, setting=replace(RECIPE.setting, epochs=2))
    (section,) = build_sections(make_runs(short, TRACT, (0.6,)), by_name(RECIPE))
    (table,) = score_tables(section, COLOURS)
    assert table.groups[-1] == ("paper, full length", 2)
    assert table.rows[0].cells[-1] == ("66.00", "± 0.20")
    other = replace(RECIPE, setting=replace(RECIPE.setting, lr=0.2))
    (section,) = build_sections(make_runs(other, TRACT, (0.6,)), by_name(RECIPE))
    (table,) = score_tables(section, COLOURS)
    assert table.groups[-1] == ("paper, its own setting", 2)


def test_top5_counts_the_runs_that_have_it() -> None:
    first, second = make_runs(RECIPE, VANILLA, (0.6, 0.7))
    arms = results([first, replace(second, top5=(0.6, 0.7, 0.8, 0.9))])
    assert arms["vanilla"].top1.mean == pytest.approx(65.0)
    assert arms["vanilla"].top5 is not None
    assert (arms["vanilla"].top5.mean, arms["vanilla"].top5.std) == (90.0, None)
    assert results([first])["vanilla"].top5 is None


def test_speed_is_measured_to_vanillas_final_mean() -> None:
    curve = (0.5, 0.7, 0.6, 0.7)  # its last value is first met in epoch 2, after 4 s
    vanilla = with_config(RECIPE, VANILLA, 0, accuracy=curve, compile_seconds=9.0)
    tract = with_config(
        RECIPE, TRACT, 0, accuracy=(0.7, 0.6, 0.6, 0.6), seconds=(3.0, 2.0, 2.5, 2.5)
    )
    arms = results([vanilla, tract])
    first, second = arms["vanilla"].speed, arms["tract λ=0.1"].speed
    assert (first.epochs_to_target, first.seconds_to_target) == (2, 4.0)
    assert (first.epochs_speed_up, first.time_speed_up) == (1.0, 1.0)
    assert (second.epochs_to_target, second.seconds_to_target) == (1, 3.0)
    assert second.epochs_speed_up == 2.0
    assert second.time_speed_up == pytest.approx(4 / 3)
    assert (first.train_seconds, first.eval_seconds) == (2.0, 0.5)
    assert (first.compile_seconds, second.compile_seconds) == (9.0, None)
    assert first.images_per_second == 50.0
    assert second.images_per_second == 40.0


def test_images_left_out_of_an_epoch_are_not_counted() -> None:
    recipe = make_recipe("fig0", drop_last=True)  # 64 of the 100 in batches of 64
    speed = results(make_runs(recipe, VANILLA, (0.6,)), recipe)["vanilla"].speed
    assert speed.images_per_second == 32.0


def test_what_never_gets_there_has_no_speed_up() -> None:
    arms = results(
        [
            *make_runs(RECIPE, VANILLA, (0.60,)),
            *make_runs(RECIPE, TRACT, (0.59,)),
        ]
    )
    speed = arms["tract λ=0.1"].speed
    assert (speed.epochs_to_target, speed.epochs_speed_up) == (None, None)
    assert (speed.seconds_to_target, speed.time_speed_up) == (None, None)


def test_times_of_different_machines_are_not_compared() -> None:
    (vanilla,) = make_runs(RECIPE, VANILLA, (0.60,))
    (tract,) = make_runs(RECIPE, TRACT, (0.63,))
    same = results([vanilla, tract])["tract λ=0.1"].speed
    other = results([vanilla, replace(tract, device="sliderule")])["tract λ=0.1"].speed
    assert same.time_speed_up == 4.0
    assert other.time_speed_up is None
    assert other.epochs_speed_up == same.epochs_speed_up == 4.0


def test_a_lost_run_counts_with_the_accuracy_it_had_and_is_named() -> None:
    good, bad = make_runs(RECIPE, TRACT, (0.60, 0.60))
    bad = replace(
        bad,
        accuracy=(0.57, 0.10),
        loss=(1.0, None),
        seconds=(2.0, 2.0),
        diverged=True,
        diverged_step=1234,
    )
    (section,) = build_sections([good, bad], by_name(RECIPE))
    (arm,) = section.arms
    assert arm.top1.mean_curve == pytest.approx((57.0, 34.0, 34.5, 35.0))
    assert arm.lost == (LostRun(seed=1, epoch=2, step=1234),)
    assert score_tables(section, COLOURS)[0].rows[0].cells[1] == "2 (1 lost)"
    (note,) = speed_table(section, COLOURS).notes
    assert note == (
        "Lost: tract λ=0.1, seed 1: the loss stopped being finite in epoch 2, "
        "step 1,234."
    )


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (signed(0.307), "+0.31"),
        (signed(-0.307), "\N{MINUS SIGN}0.31"),
        (signed(-0.001), "0.00"),
        (signed(None), "-"),
        (probability(0.0123), "0.012"),
        (probability(0.0001), "<0.001"),
        (probability(None), "-"),
        (times(1.5), "1.50x"),
        (amount(1091.4), "1,091"),
        (amount(7.4), "7.40"),
        (amount(0.0664), "0.0664"),
        (spread((71.956, None)), ("71.96", "")),
        (spread((71.956, 0.241)), ("71.96", "± 0.24")),
        (spread(None), ("-", "")),
    ],
)
def test_how_numbers_are_written(shown: object, text: object) -> None:
    assert shown == text
