"""The numbers of the paper's tables, as they stand with the recipes."""

from __future__ import annotations

import csv
from dataclasses import fields
from pathlib import Path

import pytest

from trainact.lab.recipe import Expected
from trainact.lab.recipes import RECIPES
from trainact.lab.recipes.paper_table import PAPER_TABLE

from .test_recipes import ALL, family

SHARED = Path(__file__).parents[3] / "shared" / "paper" / "table1.csv"
GROUPS = ("vanilla", "tract", "tract_133")
# The last row of Table 6.
AVERAGE = {
    "vanilla": Expected(75.90, 0.26, 93.19, 0.15),
    "tract": Expected(76.39, 0.24, 93.42, 0.14),
    "tract_133": Expected(75.94, 0.25, 93.34, 0.15),
}
FIELDS = [field.name for field in fields(Expected)]


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("field", FIELDS)
def test_averages_are_those_that_the_paper_prints(group: str, field: str) -> None:
    values = [getattr(getattr(row, group), field) for row in PAPER_TABLE.values()]
    printed = getattr(AVERAGE[group], field)
    assert len(values) == 36
    assert sum(values) / 36 == pytest.approx(printed, abs=0.0051)


def test_wins_are_those_that_the_paper_counts() -> None:
    table = PAPER_TABLE.values()
    assert sum(row.tract.top1 > row.vanilla.top1 for row in table) == 33
    assert sum((row.tract.top5 or 0) > (row.vanilla.top5 or 0) for row in table) == 34


def test_spot_values() -> None:
    vanilla, tract = RECIPES["table1-resnet50"].arms
    assert vanilla.expected == Expected(78.20, 0.35, 94.28, 0.09)
    assert tract.expected == Expected(79.07, 0.18, 94.67, 0.07)
    (short,) = RECIPES["table7-stochasticdepth101"].arms
    assert short.expected == Expected(77.73, 0.20, 94.55, 0.02)
    assert PAPER_TABLE["inceptionresnetv2"].title == "Inception-RN-v2"
    assert PAPER_TABLE["wideresnet"].vanilla == Expected(78.93, 0.07, 94.42, 0.09)


def test_every_cell() -> None:
    if not SHARED.exists():
        pytest.skip(f"no {SHARED.name} of the paper beside this checkout")
    with SHARED.open(newline="") as file:
        _, *lines = csv.reader(file)
    wanted = {title: [float(v) for v in values] for title, *values in lines}
    found = {
        row.title: [getattr(getattr(row, g), f) for g in GROUPS for f in FIELDS]
        for row in PAPER_TABLE.values()
    }
    assert found == wanted


def test_only_the_tables_have_numbers() -> None:
    """All of their arms; of Figure 5, those two that are in Table 2; no others."""
    for recipe in ALL:
        has = [arm.expected is not None for arm in recipe.arms]
        if family(recipe) == "fig5":
            assert has == [True, False, True, False]
        else:
            is_pretraining = (
                family(recipe) == "table3" and recipe.setting.begins_with is None
            )
            in_table = family(recipe).startswith("table") and not is_pretraining
            assert set(has) == {in_table}
