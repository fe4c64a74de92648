"""`trainact recipes`: the paper's experiments as a table, one of them whole, JSON."""

from __future__ import annotations

import sys
import textwrap
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from trainact.lab.config import setting_hash
from trainact.lab.json_output import json_alone, json_text
from trainact.lab.progress import make_console
from trainact.lab.recipe import Expected, Recipe
from trainact.lab.recipe_list_options import RecipesOptions
from trainact.lab.recipes import all_recipes, find_recipes, header
from trainact.lab.table_text import plain

# The last ones are left out where there is no room for them.
COLUMNS = (
    *("name", "artefact", "recipes", "runs", "model", "epochs", "seeds"),
    *("data", "arms"),
)
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
            _write(*listing(recipes, together=name is None))
    return 0


def _write(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def listing(
    recipes: Sequence[Recipe], *, together: bool, width: int | None = None
) -> list[str]:
    """Write recipes as a table.

    Args:
        recipes: to be listed.
        together: whether those of an artefact are one row, by what their names begin
            with.
        width: of a line; by default the terminal's.

    Returns:
        Lines, none longer than the width unless a name is.
    """
    width = width or make_console(_PLAIN_WIDTH).width
    groups: dict[Hashable, list[Recipe]] = {}
    for recipe in recipes:
        family = recipe.name.partition("-")[0], recipe.artefact
        groups.setdefault(family if together else recipe.name, []).append(recipe)
    rows = [row(group) for group in groups.values()]
    columns = [column for column in COLUMNS if together or column != "recipes"]
    lines = _table(columns, rows)
    while len(columns) > 1 and max(map(len, lines)) > width:
        columns.pop()
        lines = _table(columns, rows)
    hint = "`trainact recipes NAME` shows more, `trainact run NAME` trains one."
    return [*lines, "", *textwrap.wrap(hint, width)]


def _table(columns: Sequence[str], rows: Iterable[dict[str, str]]) -> list[str]:
    cells = [tuple(row[column] for column in columns) for row in rows]
    return plain(columns, cells, left=len(columns))


def row(recipes: Sequence[Recipe]) -> dict[str, str]:
    """Write recipes of an artefact as one row of a table.

    Args:
        recipes: at least one.

    Returns:
        A text for each of `COLUMNS`.
    """
    settings = [recipe.setting for recipe in recipes]
    first = recipes[0]
    return {
        "name": first.name if len(recipes) == 1 else first.name.partition("-")[0],
        "artefact": first.artefact,
        "data": _joint({setting.data for setting in settings}, "data sets"),
        "model": _joint({setting.model for setting in settings}, "models"),
        "arms": _joint({_arms(recipe) for recipe in recipes}, "choices"),
        "epochs": _range(setting.epochs for setting in settings),
        "seeds": _range(len(recipe.seeds) for recipe in recipes),
        "recipes": str(len(recipes)),
        "runs": str(sum(map(_num_runs, recipes))),
    }


def _joint(texts: AbstractSet[str], noun: str) -> str:
    return next(iter(texts)) if len(texts) == 1 else f"{len(texts)} {noun}"


def _range(numbers: Iterable[int]) -> str:
    least, *_, most = 2 * sorted(numbers)
    return f"{least}" if least == most else f"{least} to {most}"


def _arms(recipe: Recipe) -> str:
    methods = Counter(arm.method for arm in recipe.arms)
    counted = (f"{m} x {count}" if count > 1 else m for m, count in methods.items())
    return ", ".join(counted)


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
