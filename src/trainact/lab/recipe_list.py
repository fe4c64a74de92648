"""`trainact recipes`: the paper's experiments as a table, one of them whole, JSON."""

from __future__ import annotations

import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from trainact.lab.config import setting_hash
from trainact.lab.json_output import json_alone, json_text
from trainact.lab.progress import make_console
from trainact.lab.recipe import Expected, Recipe
from trainact.lab.recipe_list_options import RecipesOptions
from trainact.lab.recipes import all_recipes, find_recipes, header

COLUMNS = ("name", "artefact", "data", "model", "arms", "epochs", "seeds", "runs")
_NUM_TEXTS = 5  # columns before those of numbers
_WIDTH = 88
_OF = {"momentum": " (of SGD)", "first_layer_lr": " (where SGD trains that layer)"}
# Of the table, where the output is no terminal that says its own.
_PLAIN_WIDTH = 140


def main(options: RecipesOptions) -> int:
    """List recipes.

    Args:
        options: what the user asked for.

    Returns:
        The exit code, 0.
    """
    name = options.name
    with json_alone(options.json) as put:
        recipes = [*all_recipes().values()] if name is None else find_recipes([name])
        if options.json:
            put(json_text({"recipes": [*map(as_json, recipes)]}))
        elif len(recipes) == 1:
            _write(*describe(recipes[0]))
        else:
            _show(rows(recipes, together=name is None))
    return 0


def _write(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def _show(cells: Iterable[tuple[str, ...]]) -> None:
    console = make_console(_PLAIN_WIDTH)
    table = Table(box=SIMPLE_HEAD)
    for number, column in enumerate(COLUMNS):
        table.add_column(
            column,
            justify="left" if number < _NUM_TEXTS else "right",
            no_wrap=column == "name",
            overflow="fold",
        )
    for row in cells:
        table.add_row(*row)
    console.print(table)
    _write(
        "`trainact recipes NAME` shows all about one, `trainact run NAME` trains it."
    )


def rows(recipes: Sequence[Recipe], *, together: bool) -> Iterator[tuple[str, ...]]:
    """Write recipes as the rows of a table.

    Args:
        recipes: to be listed.
        together: whether an artefact that is one recipe for many models is one row.

    Yields:
        One text per column of `COLUMNS`.
    """
    for _, group in groupby(recipes, key=lambda recipe: recipe.artefact):
        members = list(group)
        models = {recipe.setting.model for recipe in members}
        if together and 1 < len(models) == len(members):
            family = members[0].name.partition("-")[0]
            first = _row(members[0])
            yield (f"{family}-MODEL", *first[1:3], f"{len(models)} models", *first[4:])
        else:
            yield from map(_row, members)


def _row(recipe: Recipe) -> tuple[str, ...]:
    setting = recipe.setting
    methods = Counter(arm.method for arm in recipe.arms)
    counted = (f"{m} x {count}" if count > 1 else m for m, count in methods.items())
    return (
        recipe.name,
        recipe.artefact,
        setting.data,
        setting.model,
        ", ".join(counted),
        str(setting.epochs),
        str(len(recipe.seeds)),
        str(_num_runs(recipe)),
    )


def _num_runs(recipe: Recipe) -> int:
    return len(recipe.arms) * len(recipe.seeds)


def as_json(recipe: Recipe) -> dict[str, Any]:
    """Write all about a recipe as plain values.

    Args:
        recipe: any.

    Returns:
        A dictionary that JSON can hold.
    """
    return {
        "name": recipe.name,
        "artefact": recipe.artefact,
        "header": header(recipe),
        "claim": recipe.claim,
        "setting": recipe.setting.to_json(),
        "setting_hash": setting_hash(recipe.setting),
        "arms": [
            {
                "name": arm.name,
                "method": arm.method,
                "lam": arm.lam,
                "expected": None if arm.expected is None else vars(arm.expected),
            }
            for arm in recipe.arms
        ],
        "seeds": recipe.seeds,
        "runs": _num_runs(recipe),
        "unverified": recipe.unverified,
        "deviations": recipe.deviations,
        "hours": recipe.hours,
        "hardware": recipe.hardware,
        "command": _command(recipe),
    }


def _command(recipe: Recipe) -> str:
    return f"trainact run {recipe.name}"


def describe(recipe: Recipe) -> Iterator[str]:
    """Write all about a recipe as text.

    Args:
        recipe: any.

    Yields:
        Lines.
    """
    yield f"{recipe.name} ({recipe.artefact})"
    yield ""
    yield header(recipe)
    yield ""
    yield from _wrapped("The paper finds: ", recipe.claim)
    yield ""
    if recipe.setting.begins_with is not None:
        yield f"Begins with: the weights of {recipe.setting.begins_with}"
        yield ""
    yield "Setting"
    for name, value in recipe.setting.to_json().items():
        of = _OF.get(name) if value else None
        yield f"  {name:<15} {_plain(value)}{of or ''}"
    yield ""
    seeds = " ".join(map(str, recipe.seeds))
    yield f"Arms ({_num_runs(recipe)} runs: each with the seeds {seeds})"
    width = max(len(arm.name) for arm in recipe.arms)
    for arm in recipe.arms:
        yield f"  {arm.name:<{width}}  {_paper(arm.expected)}".rstrip()
    for title, sentences in (
        ("Unverified", recipe.unverified),
        ("Deviations", recipe.deviations),
    ):
        yield ""
        yield title
        for sentence in sentences:
            yield from _wrapped("  - ", sentence)
    yield ""
    yield f"Time: {_time(recipe)}"
    yield f"Command: {_command(recipe)}"


def _wrapped(label: str, text: str) -> list[str]:
    indent = " " * len(label)
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=label,
        subsequent_indent=indent,
        break_on_hyphens=False,  # ViT-S stays in one line
    )


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple | list):
        return " ".join(map(str, value)) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def _paper(expected: Expected | None) -> str:
    if expected is None:
        return ""
    text = f"paper: {_percent(expected.top1, expected.top1_std)}"
    if expected.top5 is not None:
        text += f", top-5 {_percent(expected.top5, expected.top5_std)}"
    return text


def _percent(mean: float, std: float | None) -> str:
    return f"{mean:.2f} %" if std is None else f"{mean:.2f} ± {std:.2f} %"


def _time(recipe: Recipe) -> str:
    if recipe.hours is None:
        return "not measured"
    return f"{recipe.hours:g} h for each run on {recipe.hardware}"
