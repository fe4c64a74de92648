"""Everything the page says, and the same as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trainact.lab.json_output import json_text
from trainact.lab.recipe import Recipe
from trainact.lab.records import Record
from trainact.lab.reporting.across import ModelTable, model_tables
from trainact.lab.reporting.lengths import LengthStudy, length_studies
from trainact.lab.reporting.provenance import provenance
from trainact.lab.reporting.sections import Section, build_sections


@dataclass(frozen=True)
class Chapter:
    """What belongs to one artefact of the paper, or to none.

    Attributes:
        title: such as ``Figure 3``.
        slug: for links.
        lengths: accuracy against length.
        tables: over models.
        sections: the experiments.
    """

    title: str
    slug: str
    lengths: tuple[LengthStudy, ...]
    tables: tuple[ModelTable, ...]
    sections: tuple[Section, ...]


@dataclass(frozen=True)
class Study:
    """What was read and what came out.

    Attributes:
        num_runs: each counted once.
        warnings: about lines that were not read.
        chapters: in the order of the page.
    """

    num_runs: int
    warnings: tuple[str, ...]
    chapters: tuple[Chapter, ...]

    @property
    def sections(self) -> list[Section]:
        """Of all chapters."""
        return [section for chapter in self.chapters for section in chapter.sections]


def build_study(
    records: Sequence[Record], warnings: Sequence[str], recipes: Mapping[str, Recipe]
) -> Study:
    """Work everything out.

    Args:
        records: finished runs, each key once.
        warnings: about lines that were not read.
        recipes: all there are.

    Returns:
        The study.
    """
    sections = build_sections(records, recipes)
    lengths = length_studies(sections)
    tables = model_tables(sections, recipes)
    titles = dict.fromkeys(section.chapter for section in sections)
    return Study(
        num_runs=len(records),
        warnings=tuple(warnings),
        chapters=tuple(
            Chapter(
                title=title,
                slug=f"chapter-{number}",
                lengths=tuple(study for study in lengths if study.chapter == title),
                tables=tuple(table for table in tables if table.chapter == title),
                sections=tuple(s for s in sections if s.chapter == title),
            )
            for number, title in enumerate(titles, 1)
        ),
    )


def as_json(study: Study) -> str:
    """Write every number of the page.

    Args:
        study: to be written.

    Returns:
        The text of ``report.json``.
    """
    values: dict[str, Any] = {
        "unit": "accuracies and gains in per cent, times in seconds",
        "num_runs": study.num_runs,
        "warnings": study.warnings,
        "experiments": [_section_json(section) for section in study.sections],
        "lengths": [asdict(s) for chapter in study.chapters for s in chapter.lengths],
        "models": [asdict(t) for chapter in study.chapters for t in chapter.tables],
    }
    return json_text(values, indent=1)


def _section_json(section: Section) -> dict[str, Any]:
    view = section.view
    return {
        "title": section.title,
        "slug": section.slug,
        "chapter": section.chapter,
        "description": section.description,
        "num_runs": len(view.records),
        "recipe": view.name,
        "recipe_seeds": view.recipe.seeds if view.recipe else None,
        "recipe_hours": view.recipe.hours if view.recipe else None,
        "own_setting": view.is_own,
        "changes": [asdict(change) for change in view.changes],
        "missing": view.missing,
        "setting": view.experiment.setting.to_json(),
        "provenance": asdict(provenance(view.records)),
        "arms": [asdict(arm) for arm in section.arms],
    }
