"""One section of the page per experiment and recipe, with its title and its name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from trainact.lab.config import setting_hash
from trainact.lab.recipe import Recipe
from trainact.lab.records import Record
from trainact.lab.reporting.arms import ArmResult, arm_results
from trainact.lab.reporting.grouping import Experiment, View, group, show, views
from trainact.lab.summary import summarise_arms
from trainact.lab.tables import title as describe

WITHOUT_RECIPE = "Comparisons without a recipe"
UNKNOWN_RECIPE = "Recipes that this version does not have"


@dataclass(frozen=True)
class Section:
    """An experiment under the name of one recipe, or of none.

    Attributes:
        view: the experiment.
        arms: what came out.
        title: different from every other section's.
        slug: the same for file names and links.
    """

    view: View
    arms: tuple[ArmResult, ...]
    title: str
    slug: str

    @property
    def baseline(self) -> ArmResult | None:
        """Vanilla, where it was run."""
        return next((arm for arm in self.arms if arm.is_baseline), None)

    @property
    def chapter(self) -> str:
        """Heading under which the section stands."""
        if self.view.recipe is not None:
            return self.view.recipe.artefact
        return WITHOUT_RECIPE if self.view.name is None else UNKNOWN_RECIPE

    @property
    def description(self) -> str:
        """What was trained."""
        records = self.view.records
        return describe(summarise_arms(records), records)


def build_sections(
    records: Iterable[Record], recipes: Mapping[str, Recipe]
) -> list[Section]:
    """Make the sections of the page.

    Args:
        records: finished runs, each key once.
        recipes: all there are.

    Returns:
        In the recipes' order, each recipe's own setting first; then the rest.
    """
    seen = [v for experiment in group(records) for v in views(experiment, recipes)]
    order = {name: place for place, name in enumerate(recipes)}
    seen.sort(
        key=lambda view: (
            order.get(view.name or "", len(order) + (view.name is None)),
            not view.is_own,
        )
    )
    sections = [
        Section(view, arm_results(view), _title(view), _slug(view)) for view in seen
    ]
    return _with_numbers(_with_differences(sections))


def _title(view: View) -> str:
    if view.name is None:
        return describe(summarise_arms(view.records), view.records)
    if view.is_own or view.recipe is None:
        return view.name
    return f"{view.name} " + (
        "at reduced length" if view.is_reduced else "in another setting"
    )


def _slug(view: View) -> str:
    setting = view.experiment.setting
    name = view.name or f"{setting.model}-{setting.data}"
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return slug if view.is_own else f"{slug}-{setting_hash(setting)[:6]}"


def _with_differences(sections: Sequence[Section]) -> list[Section]:
    """Say in titles that occur twice in what their experiments differ."""
    by_title: dict[str, list[Experiment]] = {}
    for section in sections:
        by_title.setdefault(section.title, []).append(section.view.experiment)
    return [
        replace(section, title=section.title + _suffix(section, by_title))
        for section in sections
    ]


def _suffix(section: Section, by_title: Mapping[str, Sequence[Experiment]]) -> str:
    same = by_title[section.title]
    if len(same) == 1:
        return ""
    own = section.view.experiment
    parts = [
        f"{field} {show(value)}"
        for field, value in own.setting.to_json().items()
        if any(value != other.setting.to_json()[field] for other in same)
    ]
    if any(own.data_hash != other.data_hash for other in same):
        parts.append(f"images {own.data_hash[:6]}")
    return f" ({', '.join(parts)})"


def _with_numbers(sections: Sequence[Section]) -> list[Section]:
    """Number the slugs that occur twice."""
    counts: dict[str, int] = {}
    numbered: list[Section] = []
    for section in sections:
        count = counts[section.slug] = counts.get(section.slug, 0) + 1
        slug = section.slug if count == 1 else f"{section.slug}-{count}"
        numbered.append(replace(section, slug=slug))
    return numbered
