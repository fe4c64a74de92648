"""Recipes are found by name, and `trainact recipes` says what they are."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import fields, replace
from typing import Any

import pytest

from trainact.lab.config import Setting, setting_hash
from trainact.lab.errors import LabError
from trainact.lab.recipe import Expected
from trainact.lab.recipe_list import COLUMNS, listing, main, row
from trainact.lab.recipe_list_options import RecipesOptions
from trainact.lab.recipes import RECIPES, STUDIES, find_recipes, header
from trainact.lab.recipes.paper_table import PAPER_TABLE

from .test_recipes import ALL, family


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (["fig6"], 1),
        (["fig3"], 8),
        (["fig3-sgd"], 4),
        (["fig3-sgd-100"], 1),
        (["fig10"], 8),
        (["fig8-0"], 2),
        (["table1"], 36),
        (["fig5"], 3),
        (["table3"], 6),
        (["table3-vit-s"], 4),
        (["table3-vit-s-400"], 1),
        (["table3-vit-s-400-finetune"], 1),
        (["table4-cifar10"], 1),
        (["fig3", "fig3-sgd-100", "fig6"], 9),
        ([], 0),
    ],
)
def test_find(names: list[str], count: int) -> None:
    found = find_recipes(names)
    assert len({recipe.name for recipe in found}) == len(found) == count


def test_a_beginning_ends_at_a_hyphen() -> None:
    """Else 'fig3-sgd-80' or 'table1-resnet1' would quietly be something."""
    for name in ("fig", "fig1", "fig3-", "table1-resnet", "table1-resnet1", ""):
        with pytest.raises(LabError, match="is not known"):
            find_recipes([name])


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("fgi3", "fig3"),
        ("fig3-sdg-100", "fig3-sgd-100"),
        ("table1-resnet5", "resnet50"),
    ],
)
def test_a_slip_gets_a_hint(typed: str, meant: str) -> None:
    with pytest.raises(LabError, match=rf"did you mean .*{meant}'") as caught:
        find_recipes([typed])
    assert "\n" not in str(caught.value)


def show(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    assert main(RecipesOptions(*arguments)) == 0
    return capsys.readouterr().out


def test_the_list_has_every_artefact_with_all_its_recipes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    heading, *lines = show(capsys).partition("\n\n")[0].splitlines()
    assert heading.split() == [*COLUMNS[: len(heading.split())]]
    place = heading.index("recipes")
    counts = {line.split()[0]: int(line[place:].split()[0]) for line in lines}
    assert counts == Counter(map(family, [*ALL, *STUDIES.values()]))
    for name, count in counts.items():
        assert len(find_recipes([name])) == count, "each can be listed by itself"


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("name", [None, "fig9", "table1", "optimizers"])
def test_no_line_is_wrapped(name: str | None, width: int) -> None:
    recipes = [*ALL] if name is None else find_recipes([name])
    lines = listing(recipes, together=name is None, width=width)
    names = {family(recipe) if name is None else recipe.name for recipe in recipes}
    assert names == {line.split()[0] for line in lines[1 : len(names) + 1]}
    assert max(map(len, lines)) <= width
    if width == 120 and name == "fig9":
        assert all("cifar:resnet18-maxpool" in line for line in lines[1:5])


def test_a_beginning_lists_each_of_its_recipes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = show(capsys, "table7")
    assert all(f"\ntable7-{model} " in out for model in PAPER_TABLE)
    assert "fig3" not in out


def test_rows() -> None:
    assert row([RECIPES["fig9-100"]]) == {
        "name": "fig9-100",
        "artefact": "Figure 9",
        "data": "cifar10",
        "model": "cifar:resnet18-maxpool",
        "arms": "vanilla, tract x 3, tract+sgd",
        "epochs": "100",
        "seeds": "5",
        "recipes": "1",
        "runs": "25",
    }
    assert row(find_recipes(["fig9", "table1-resnet50"])) == {
        "name": "fig9",
        "artefact": "Figure 9",
        "data": "2 data sets",
        "model": "2 models",
        "arms": "2 choices",
        "epochs": "100 to 800",
        "seeds": "5",
        "recipes": "5",
        "runs": "110",
    }


@pytest.mark.parametrize(
    "name",
    [
        *("fig9-100", "fig6", "table1-resnet50", "fig4-800", "fig5-90", "table5"),
        *("table3-vit-b-400", "table3-vit-b-400-finetune", "table4-flowers102"),
    ],
)
def test_one_recipe_whole(capsys: pytest.CaptureFixture[str], name: str) -> None:
    recipe = RECIPES[name]
    out = show(capsys, name)
    assert header(recipe) in out
    assert all(len(line) <= 88 for line in out.splitlines())
    flat = " ".join(out.split())
    for sentence in (recipe.claim, *recipe.unverified, *recipe.deviations):
        assert " ".join(sentence.split()) in flat
    for field in fields(Setting):
        assert f"\n  {field.name} " in out
    for arm in recipe.arms:
        assert f"\n  {arm.name}" in out
    assert f"trainact run {name}\n" in out
    shown = (
        "not measured" if recipe.hours is None else f"{recipe.hours:g} h for each run"
    )
    assert f"Time: {shown}" in out


def test_values_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    out = show(capsys, "table1-resnet50")
    assert "vanilla      paper: 78.20 ± 0.35 %, top-5 94.28 ± 0.09 %\n" in out
    assert "  milestones      59 119 159\n" in out
    assert "  drop_last       no\n" in out
    assert "  limit           -\n" in out
    assert "  first_layer_lr  0.08 (where SGD" in show(capsys, "fig9-100")


def test_numbers_without_a_std_and_weights_to_begin_with(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = show(capsys, "table3-vit-s-400-finetune")
    assert "tract λ=0.1  paper: 81.50 %, top-5 95.73 %\n" in out
    assert "Begins with: the weights of table3-vit-s-400\n" in out
    out = show(capsys, "table4-cifar10")
    assert "vanilla      paper: 98.94 %\n" in out
    assert "Begins with" not in show(capsys, "table3-vit-s-400")
    (one,) = json.loads(show(capsys, "table4-cifar10", True))["recipes"]
    assert one["setting"]["begins_with"] == "table3-vit-s-800-finetune"


def test_a_time_is_shown_with_its_hardware(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = replace(RECIPES["fig6"], hours=1.5, hardware="an abacus")
    monkeypatch.setitem(RECIPES, "fig6", timed)
    assert "Time: 1.5 h for each run on an abacus" in show(capsys, "fig6")


def test_json_holds_everything(capsys: pytest.CaptureFixture[str]) -> None:
    listed = json.loads(show(capsys, None, True))["recipes"]
    assert [entry["name"] for entry in listed] == [*RECIPES, *STUDIES]
    for entry, recipe in zip(listed, [*ALL, *STUDIES.values()], strict=True):
        assert Setting.from_json(entry["setting"]) == recipe.setting
        assert entry["setting_hash"] == setting_hash(recipe.setting)
        assert [arm["name"] for arm in entry["arms"]] == [a.name for a in recipe.arms]
        for arm, own in zip(entry["arms"], recipe.arms, strict=True):
            given = arm["expected"]
            assert (None if given is None else Expected(**given)) == own.expected
        assert tuple(entry["unverified"]) == recipe.unverified
        assert entry["runs"] == len(recipe.arms) * len(recipe.seeds)
    (one,) = json.loads(show(capsys, "fig6", True))["recipes"]
    assert one["command"] == "trainact run fig6"
