"""What is said across experiments, over lengths and models, worked by hand."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import pytest

from tests.lab.made_up import (
    DATA,
    TRACT,
    VANILLA,
    by_name,
    expected,
    make_recipe,
    make_runs,
)
from trainact.lab.recipe import Arm, Recipe
from trainact.lab.records import Record
from trainact.lab.reporting.across import ModelTable, model_tables
from trainact.lab.reporting.lengths import length_studies
from trainact.lab.reporting.sections import build_sections
from trainact.lab.reporting.tables import models_table


def test_accuracy_against_length_has_a_point_per_recipe() -> None:
    short = make_recipe("fig3-sgd-4", epochs=4)
    long = make_recipe("fig3-sgd-8", epochs=8, lr=0.2, milestones=(4,))
    other = make_recipe("fig3-adam-8", epochs=8, optimizer="adam")
    records = [
        *make_runs(long, VANILLA, (0.70,)),
        *make_runs(short, VANILLA, (0.60, 0.62)),
        *make_runs(short, TRACT, (0.63,)),
        *make_runs(other, VANILLA, (0.1,)),
    ]
    sections = build_sections(records, by_name(short, long, other))
    (study,) = length_studies(sections)
    assert (study.name, study.epochs, study.is_own) == ("fig3-sgd", (4, 8), True)
    vanilla, tract = study.lines
    assert [point.epochs for point in vanilla.points] == [4, 8]
    assert [point.num_runs for point in vanilla.points] == [2, 1]
    assert [point.mean for point in vanilla.points] == pytest.approx([61.0, 70.0])
    assert vanilla.points[0].std == pytest.approx(sqrt(2))
    assert [(point.epochs, point.mean) for point in tract.points] == [(4, 63.0)]


def test_lengths_on_other_data_or_in_another_setting_are_no_family() -> None:
    short, long = make_recipe("fig3-4", epochs=4), make_recipe("fig3-8", epochs=8)
    strange = make_recipe("fig3-8", epochs=8, label_smoothing=0.1)
    data = {**DATA, "hash": "other"}
    (first,) = make_runs(short, VANILLA, (0.6,))
    for second in (
        *make_runs(long, VANILLA, (0.7,), data=data),
        *make_runs(strange, VANILLA, (0.7,)),
    ):
        sections = build_sections([first, second], by_name(short, long))
        assert len(sections) == 2
        assert length_studies(sections) == []


def table1(model: str, vanilla: float, tract: float) -> Recipe:
    return make_recipe(
        f"table1-{model}",
        Arm("vanilla", expected=expected(vanilla, 90.0)),
        Arm("tract", 0.1, expected=expected(tract, 91.0)),
        model=model,
        artefact="Table 1",
    )


MODELS = [
    table1("a", 70.0, 71.0),
    table1("b", 60.0, 59.0),
    table1("c", 50.0, 53.0),
    table1("d", 50.0, 51.0),
]


def tables_of(records: list[Record], *more: Recipe) -> dict[str, ModelTable]:
    recipes = by_name(*MODELS, *more)
    tables = model_tables(build_sections(records, recipes), recipes)
    return {table.metric: table for table in tables}


def test_the_table_over_models() -> None:
    records = [
        run
        for recipe, gain in zip(MODELS[:3], (0.01, 0.02, 0.03), strict=True)
        for run in (
            *make_runs(recipe, VANILLA, (0.6, 0.7)),
            *make_runs(recipe, TRACT, (0.6 + gain, 0.7 + gain)),
        )
    ]
    tables = tables_of(records)
    table = tables["accuracy"]
    assert list(tables) == ["accuracy"], "none of these runs measured top-5"
    assert [row.model for row in table.rows] == ["a", "b", "c"]
    assert [row.gain for row in table.rows] == pytest.approx([1.0, 2.0, 3.0])
    assert table.rows[1].baseline == pytest.approx((65.0, sqrt(50)))
    assert table.rows[1].paper_baseline == (60.0, 0.2)
    assert table.rows[1].paper_gain == -1.0
    # Gains 1, 2, 3: mean 2 over 1 / sqrt(3).
    assert (table.ours.mean_gain, table.ours.wins) == (pytest.approx(2.0), 3)
    assert table.ours.test.t == pytest.approx(2 * sqrt(3))
    # The paper's of the same models: 1, -1, 3: mean 1 over 2 / sqrt(3).
    assert table.paper is not None
    assert (table.paper.mean_gain, table.paper.wins) == (pytest.approx(1.0), 2)
    assert table.paper.test.t == pytest.approx(sqrt(3) / 2)
    # And of all four: 1, -1, 3, 1.
    assert table.paper_all is not None
    assert (table.paper_all.wins, table.paper_all.test.num_pairs) == (3, 4)
    shown = models_table(table)
    assert [heading for heading, _ in shown.groups] == ["", "ours", "paper"]
    assert shown.rows[0].cells[3::3] == ("+1.00", "+1.00")
    assert shown.rows[-1].cells[3::3] == ("+2.00", "+1.00")
    assert shown.notes[0].startswith("Ours: mean gain +2.000, higher in 3 of 3")
    assert "Paper, all models: mean gain +1.000, higher in 3 of 4" in shown.notes[2]


def test_a_table_without_its_own_baseline_takes_the_one_of_table_1() -> None:
    seventh = make_recipe(
        "table7-a",
        Arm("tract", 0.1, expected=expected(70.5)),
        model="a",
        epochs=3,
        artefact="Table 7",
    )
    records = [
        *make_runs(MODELS[0], VANILLA, (0.6,)),
        *make_runs(seventh, TRACT, (0.62,)),
    ]
    table = tables_of(records, seventh)["accuracy"]
    assert table.family == "table7"
    assert table.labels == ("vanilla, 4 epochs", "tract λ=0.1, 3 epochs")
    assert table.rows[0].gain == pytest.approx(2.0)
    assert table.rows[0].paper_gain == pytest.approx(0.5)


def test_models_at_reduced_length_have_a_table_of_their_own() -> None:
    short = replace(MODELS[1], setting=replace(MODELS[1].setting, epochs=2))
    records = [
        run
        for recipe in (MODELS[0], short)
        for arm in (VANILLA, TRACT)
        for run in make_runs(recipe, arm, (0.6,))
    ]
    recipes = by_name(*MODELS)
    full, reduced = model_tables(build_sections(records, recipes), recipes)
    assert ([row.model for row in full.rows], full.changes) == (["a"], ())
    assert [row.model for row in reduced.rows] == ["b"]
    assert [str(change) for change in reduced.changes] == ["epochs 2 instead of 4"]
    assert reduced.labels[0] == "vanilla, 2 epochs"
    assert reduced.paper_labels[0] == "vanilla, 4 epochs"
    assert reduced.paper_label == "paper, full length"
