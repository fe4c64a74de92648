"""Which weights does a run begin with, where its recipe continues another one?"""

from __future__ import annotations

from pathlib import Path

from trainact.lab.errors import LabError
from trainact.lab.experiment_options import ExperimentOptions
from trainact.lab.recipe import Arm, Recipe
from trainact.lab.records import Record
from trainact.lab.shorten import is_smoke
from trainact.lab.workspace import Workspace


class MissingWeightsError(LabError):
    """A recipe begins with weights that are not there."""


def find_initial(
    recipe: Recipe, arm: Arm, seed: int, options: ExperimentOptions
) -> Path | None:
    """Find the weights that the recipe before left, of the same arm and seed.

    Args:
        recipe: to be trained.
        arm: likewise.
        seed: likewise.
        options: with ``--weights``, in which ``{method}``, ``{lam}`` and ``{seed}``
            stand for the run's, and the folder of the runs.

    Returns:
        The file; None for a recipe that begins with random weights, as the one that is
        smoked may where there are none.

    Raises:
        MissingWeightsError: if there are no such weights.
        LabError: if there are several.
    """
    if options.weights is not None:
        return _fill_in(options.weights, arm, seed)
    source = recipe.setting.begins_with
    if source is None:
        return None
    workspace = Workspace(options.out)
    runs = [
        record
        for record in workspace.records.read()[0]
        if record.recipe == source
        and (record.config.arm, record.config.seed) == (arm.name, seed)
        and (options.smoke or not is_smoke(record.config.setting))
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
        raise MissingWeightsError(
            f"{recipe.name} begins with the weights that {source} ends with, and "
            f"{options.out} has none for {arm.name}, seed {seed}: {_remedy(runs)}"
        )
    return found[0] if found else None


def _fill_in(path: Path, arm: Arm, seed: int) -> Path:
    values = {"{method}": arm.method, "{lam}": arm.lam, "{seed}": seed}
    text = str(path)
    for name, value in values.items():
        text = text.replace(name, "" if value is None else str(value))
    return Path(text).expanduser()


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
