"""`trainact run`: train a recipe here, one run after the other."""

from __future__ import annotations

from trainact.lab.errors import LabError
from trainact.lab.experiment import plan
from trainact.lab.launch import launch, must_launch
from trainact.lab.local import train_missing
from trainact.lab.progress import make_console
from trainact.lab.ranks import joined
from trainact.lab.recipe import Recipe
from trainact.lab.recipes import find_recipes
from trainact.lab.run_options import RunOptions


def main(options: RunOptions) -> int:
    """Train what is missing of a recipe.

    Args:
        options: what the user asked for.

    Returns:
        The exit code: 0, or 130 after Ctrl-C.
    """
    recipe = _find(options.recipe)
    if must_launch(options.devices, options.device):
        return launch(options.devices)
    with joined(options.device):
        jobs = plan([recipe], options, options.seed or None)
        title = f"{recipe.name}, {recipe.artefact}"
        return train_missing(jobs, title, options.out, make_console())


def _find(name: str) -> Recipe:
    recipes = find_recipes([name])
    if len(recipes) > 1:
        raise LabError(
            f"{name} stands for {len(recipes)} recipes, {recipes[0].name} to "
            f"{recipes[-1].name}: give one of them, or `trainact sweep {name}`"
        )
    return recipes[0]
