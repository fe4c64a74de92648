"""Which weights does a run begin with, where its recipe continues another one?"""

from __future__ import annotations

from pathlib import Path

from trainact.lab.errors import LabError
from trainact.lab.experiment_options import ExperimentOptions
from trainact.lab.recipe import Arm, Recipe
from trainact.lab.records import Record
from trainact.lab.workspace import Workspace


def find_initial(
    recipe: Recipe, arm: Arm, seed: int, options: ExperimentOptions
) -> Path | None:
    """Find the weights that the recipe before left, of the same arm and seed.

    Args:
        recipe: to be trained.
        arm: likewise.
        seed: likewise.
        options: with ``--weights``, in which ``{method}`` and ``{seed}`` stand for the
            run's, and the folder of the runs.

    Returns:
        The file; None for a recipe that begins with random weights, as the one that is
        smoked may where there are none.

    Raises:
        LabError: if there are no such weights, or several.
    """
    if options.weights is not None:
        text = str(options.weights).replace("{method}", arm.method)
        return Path(text.replace("{seed}", str(seed))).expanduser()
    source = recipe.setting.begins_with
    if source is None:
        return None
    workspace = Workspace(options.out)
    runs = [
        record
        for record in workspace.records.read()[0]
        if record.recipe == source
        and (record.config.arm, record.config.seed) == (arm.name, seed)
    ]
    found = [
        path
        for record in runs
        if not record.diverged and (path := workspace.weights(record.key)).exists()
    ]
    if len(found) > 1:
        raise LabError(
            f"{recipe.name} begins with weights of {source}, and {options.out} "
            f"has {len(found)} for {arm.name}, seed {seed}: choose with --weights"
        )
    if not found and not options.smoke:
        raise LabError(
            f"{recipe.name} begins with the weights that {source} ends with, and "
            f"{options.out} has none for {arm.name}, seed {seed}: {_remedy(runs)}"
        )
    return found[0] if found else None


def _remedy(runs: list[Record]) -> str:
    """What to do where none of these runs left weights to begin with."""
    if not runs:
        return "train that first, with the same --out, or give a file with --weights"
    if all(run.diverged for run in runs):
        return "it diverged; leave it out, or give a file with --weights"
    return (
        "it is recorded without; give a file with --weights, or train it again with "
        "another --out"
    )
