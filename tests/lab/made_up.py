"""Made-up recipes and runs for the tests of `trainact report`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.lab.conftest import make_record
from trainact.lab.config import Setting, setting_hash
from trainact.lab.recipe import Arm, Expected, Recipe
from trainact.lab.records import Record
from trainact.lab.reporting.grouping import View, group, views

VANILLA, TRACT = Arm("vanilla"), Arm("tract", 0.1)
LAMS = (0.00625, 0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
SETTING = Setting(
    data="cifar10", model="mlp", epochs=4, batch_size=64, optimizer="sgd", lr=0.1
)
DATA = {
    "train": 100,
    "test": 20,
    "shape": [3, 32, 32],
    "classes": [str(label) for label in range(10)],
    "hash": "abcdef0123456789",
}


def make_recipe(
    name: str, *arms: Arm, artefact: str = "Figure 0", **changes: Any
) -> Recipe:
    """A recipe with the arms given, by default vanilla and TrAct."""
    return Recipe(
        name=name,
        artefact=artefact,
        setting=replace(SETTING, **changes),
        arms=arms or (VANILLA, TRACT),
        claim=f"What the paper says of {name}.",
        unverified=("Something unverified.",),
        deviations=("Something that deviates.",),
    )


def by_name(*recipes: Recipe) -> dict[str, Recipe]:
    return {recipe.name: recipe for recipe in recipes}


def make_runs(
    recipe: Recipe,
    arm: Arm,
    finals: Sequence[float],
    first_seed: int = 0,
    name: str | None = "",
    **changes: Any,
) -> list[Record]:
    """Runs that rise by a hundredth an epoch to their final accuracies."""
    epochs = recipe.setting.epochs
    return [
        with_config(
            recipe,
            arm,
            seed,
            accuracy=tuple(
                round(final - 0.01 * (epochs - epoch), 6)
                for epoch in range(1, epochs + 1)
            ),
            name=name,
            **changes,
        )
        for seed, final in enumerate(finals, first_seed)
    ]


def with_config(
    recipe: Recipe, arm: Arm, seed: int, name: str | None = "", **changes: Any
) -> Record:
    """One run of a recipe, recorded under its name unless another is given."""
    config = recipe.config(arm, seed, "cpu")
    epochs = recipe.setting.epochs
    values: dict[str, Any] = {
        "accuracy": (0.5,) * epochs,
        "loss": (1.0,) * epochs,
        "seconds": (2.0,) * epochs,
        "eval_seconds": (0.5,) * epochs,
        "data": DATA,
        "layers": () if arm == VANILLA else ("fc1",),
        "recipe": recipe.name if name == "" else name,
        "recipe_hash": setting_hash(recipe.setting),
        "command": f"trainact run {recipe.name} --seed {seed}",
        "commit": "0123456789abcdef",
    }
    values |= changes
    key = config.key(str(values["data"].get("hash")))
    return make_record(config, key=key, **values)


def only_view(records: Iterable[Record], *recipes: Recipe) -> View:
    """The one view of the one experiment that the records belong to."""
    (experiment,) = group(records)
    (view,) = views(experiment, by_name(*recipes))
    return view


def write_runs(folder: Path, records: Iterable[Record]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(record.to_line() for record in records)
    (folder / "records.jsonl").write_text(lines, encoding="utf-8")
    return folder


def read_json(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


def expected(top1: float, top5: float | None = None) -> Expected:
    return Expected(top1, 0.2, top5, None if top5 is None else 0.1)
