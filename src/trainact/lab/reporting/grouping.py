"""Records sorted into experiments, and each experiment as the recipes see it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trainact.lab.config import Setting
from trainact.lab.recipe import Recipe
from trainact.lab.records import Record
from trainact.lab.summary import BASELINE


@dataclass(frozen=True)
class Change:
    """A field in which an experiment differs from a recipe.

    Attributes:
        field: of `Setting`.
        recipe: the recipe's value.
        here: the experiment's value.
    """

    field: str
    recipe: Any
    here: Any

    def __str__(self) -> str:
        return f"{self.field} {show(self.here)} instead of {show(self.recipe)}"


def show(value: Any) -> str:
    """Write the value of a setting for people.

    Args:
        value: of a field of `Setting`.

    Returns:
        For example ``0.1``, ``none`` or ``60, 120, 160``.
    """
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return ", ".join(map(show, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Experiment:
    """All runs of one setting on the same data.

    Attributes:
        setting: what they share.
        data_hash: of the images and labels.
        records: in the order in which they were read.
    """

    setting: Setting
    data_hash: str
    records: tuple[Record, ...]


@dataclass(frozen=True)
class View:
    """An experiment as one recipe sees it.

    Attributes:
        experiment: its runs.
        name: of the recipe; None where the runs belong to none.
        recipe: of that name; None where this version has none.
        changes: in what the experiment differs from the recipe.
        records: of the recipe's arms, in its order, and of arms that belong to no
            recipe of this setting.
    """

    experiment: Experiment
    name: str | None
    recipe: Recipe | None
    changes: tuple[Change, ...]
    records: tuple[Record, ...]

    @property
    def is_own(self) -> bool:
        """Whether the runs were made in the recipe's own setting."""
        return self.recipe is not None and not self.changes

    @property
    def is_reduced(self) -> bool:
        """Whether the runs are shorter than the recipe's, or on fewer images."""
        if self.recipe is None:
            return False
        here = self.experiment.setting
        return here.epochs < self.recipe.setting.epochs or here.limit is not None

    @property
    def paper_label(self) -> str:
        """How to call the paper's numbers beside these runs."""
        if self.is_own:
            return "paper"
        return "paper, full length" if self.is_reduced else "paper, its own setting"

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the recipe's arms that have no run yet."""
        arms = {record.config.arm for record in self.records}
        wanted = self.recipe.arms if self.recipe else ()
        return tuple(arm.name for arm in wanted if arm.name not in arms)


def group(records: Iterable[Record]) -> list[Experiment]:
    """Sort records into experiments.

    Args:
        records: finished runs, each key once.

    Returns:
        The experiments, in the order in which they appear.
    """
    found: dict[tuple[Setting, str], list[Record]] = {}
    for record in records:
        identity = record.config.setting, record.data["hash"]
        found.setdefault(identity, []).append(record)
    return [
        Experiment(setting, data_hash, tuple(runs))
        for (setting, data_hash), runs in found.items()
    ]


def views(experiment: Experiment, recipes: Mapping[str, Recipe]) -> list[View]:
    """Look at an experiment from every recipe it belongs to.

    Those are the recipes with this very setting; where there is none, those under
    whose names the runs were made; where there is no name either, none.

    Args:
        experiment: to be shown.
        recipes: all there are.

    Returns:
        At least one view.
    """
    names: list[str | None] = [
        name for name, r in recipes.items() if r.setting == experiment.setting
    ]
    if not names:
        named = [record.recipe for record in experiment.records if record.recipe]
        names = list(dict.fromkeys(named)) or [None]
    matching = {name: recipes[name] for name in names if name and name in recipes}
    found = [_view(experiment, name, matching) for name in names]
    return [view for view in found if view.records]


def _view(
    experiment: Experiment, name: str | None, matching: Mapping[str, Recipe]
) -> View:
    recipe = matching.get(name or "")
    own = [arm.name for arm in recipe.arms] if recipe else []
    claimed = {arm.name for other in matching.values() for arm in other.arms}
    shown = [
        record
        for record in experiment.records
        if record.config.arm in own or record.config.arm not in claimed
    ]
    shown.sort(key=lambda record: _position(record, own))
    changes = changes_from(recipe, experiment.setting) if recipe else ()
    return View(experiment, name, recipe, changes, tuple(shown))


def _position(record: Record, own: list[str]) -> tuple[int, bool, str, float]:
    """The recipe's order; behind it and without one: baseline first, λ ascending."""
    config = record.config
    place = own.index(config.arm) if config.arm in own else len(own)
    return place, config.method != BASELINE, config.method, config.lam or 0.0


def changes_from(recipe: Recipe, setting: Setting) -> tuple[Change, ...]:
    """List where a setting differs from a recipe's.

    Args:
        recipe: to compare with.
        setting: of an experiment.

    Returns:
        One entry per field that differs.
    """
    full, here = recipe.setting.to_json(), setting.to_json()
    return tuple(
        Change(field, full[field], here[field])
        for field in full
        if full[field] != here[field]
    )
