"""Experiments by name: the paper's and others. A new one: a file and an entry here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product

from trainact.lab.errors import LabError, did_you_mean
from trainact.lab.recipe import Recipe
from trainact.lab.recipes.common import LENGTHS
from trainact.lab.recipes.equal_budgets import (
    BUDGETS,
    RESNET_BUDGETS,
    WHOLE_BUDGETS,
    equal_budgets,
    resnet_budgets,
    whole_budgets,
)
from trainact.lab.recipes.fig3 import fig3
from trainact.lab.recipes.fig4 import fig4
from trainact.lab.recipes.fig6 import fig6
from trainact.lab.recipes.fig7 import fig7
from trainact.lab.recipes.fig8 import fig8
from trainact.lab.recipes.fig9 import fig9
from trainact.lab.recipes.fig10 import fig10
from trainact.lab.recipes.first_layer_kinds import KINDS, first_layer_kind
from trainact.lab.recipes.first_layer_study import (
    DAMPED,
    DIGITS,
    PIXELS,
    STUDIED,
    damping,
    digits,
    first_layer,
)
from trainact.lab.recipes.imagenet import LENGTHS as IMAGENET_LENGTHS
from trainact.lab.recipes.imagenet import fig5, fig11, fig12
from trainact.lab.recipes.optimizer_study import PROBLEMS, TUNED, optimizers
from trainact.lab.recipes.paper_table import PAPER_TABLE
from trainact.lab.recipes.table1 import table1
from trainact.lab.recipes.table3 import PRETRAININGS, table3
from trainact.lab.recipes.table4 import TRANSFERS, table4
from trainact.lab.recipes.table5 import table5
from trainact.lab.recipes.table7 import table7

__all__ = ["RECIPES", "STUDIES", "all_recipes", "find_recipes", "header"]

_Family = tuple[Callable[..., Recipe], tuple[Iterable[object], ...]]
_OPTIMIZERS = ("sgd", "adam")
# What a name begins with → the function that makes it, the choices of each argument.
_FAMILIES: dict[str, _Family] = {
    "fig3": (fig3, (_OPTIMIZERS, LENGTHS)),
    "fig4": (fig4, (LENGTHS,)),
    "fig5": (fig5, (IMAGENET_LENGTHS,)),
    "fig6": (fig6, ()),
    "fig7": (fig7, (LENGTHS,)),
    "fig8": (fig8, (("0-1", "0-255"),)),
    "fig9": (fig9, (LENGTHS,)),
    "fig10": (fig10, (_OPTIMIZERS, LENGTHS)),
    "fig11": (fig11, (IMAGENET_LENGTHS,)),
    "fig12": (fig12, (IMAGENET_LENGTHS,)),
    "table1": (table1, (PAPER_TABLE,)),
    "table3": (table3, (PRETRAININGS, ("pretrain", "finetune"))),
    "table4": (table4, (TRANSFERS,)),
    "table5": (table5, ()),
    "table7": (table7, (PAPER_TABLE,)),
}


# Likewise, beyond the paper.
_BEYOND: dict[str, _Family] = {
    "optimizers": (optimizers, (PROBLEMS, TUNED)),
    "first": (first_layer, (STUDIED,)),
    "digits": (digits, (DIGITS,)),
    "layers": (first_layer_kind, (KINDS,)),
    "whole": (whole_budgets, (WHOLE_BUDGETS,)),
    "resnet": (resnet_budgets, (RESNET_BUDGETS,)),
    "damping": (damping, (DAMPED, PIXELS)),
    "equal": (equal_budgets, (BUDGETS,)),
}
_ALL_FAMILIES = {**_FAMILIES, **_BEYOND}


def _make_all(names: Iterable[str]) -> Iterator[Recipe]:
    for make, choices in map(_ALL_FAMILIES.__getitem__, names):
        for arguments in product(*choices):
            yield make(*arguments)


RECIPES = {recipe.name: recipe for recipe in _make_all(_FAMILIES)}
STUDIES = {recipe.name: recipe for recipe in _make_all(_BEYOND)}


def all_recipes() -> dict[str, Recipe]:
    """List what can be run, the paper's first.

    Returns:
        Recipes by name.
    """
    return {**RECIPES, **STUDIES}


def header(recipe: Recipe) -> str:
    """Write what a recipe is, where it comes from and which numbers there are.

    Args:
        recipe: one of `RECIPES` or `STUDIES`.

    Returns:
        The docstring of the function that made it, without arguments and result.
    """
    make, _ = _ALL_FAMILIES[recipe.name.partition("-")[0]]
    text = inspect.getdoc(make) or ""
    return text.partition("\nArgs:")[0].partition("\nReturns:")[0].strip()


def find_recipes(names: Sequence[str]) -> list[Recipe]:
    """Look recipes up.

    Args:
        names: of recipes, or what names begin with up to a hyphen, such as ``fig3`` or
            ``fig3-sgd``; what is the name of one recipe stands for it alone.

    Returns:
        The recipes, none twice.
    """
    found = {recipe.name: recipe for name in names for recipe in _beginning(name)}
    return list(found.values())


def _beginning(name: str) -> list[Recipe]:
    every = all_recipes()
    if name in every:
        return [every[name]]
    recipes = [r for r in every.values() if f"{r.name}-".startswith(f"{name}-")]
    if not recipes:
        known = [*_ALL_FAMILIES, *every]
        raise LabError(
            f"recipe {name!r} is not known{did_you_mean(name, known)}: give one that "
            "`trainact recipes` lists, or its beginning, such as fig3 or table1"
        )
    return recipes
