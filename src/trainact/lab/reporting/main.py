"""`trainact report`: read, work out, draw, write."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from trainact.cli.exit_codes import EXIT_OK
from trainact.lab.errors import LabError, describe_os_error, how_many
from trainact.lab.json_output import json_alone
from trainact.lab.recipe import Recipe
from trainact.lab.reporting.colours import choose_colours
from trainact.lab.reporting.figures import (
    Picture,
    lengths_picture,
    section_pictures,
)
from trainact.lab.reporting.options import ReportOptions
from trainact.lab.reporting.page import render, shortened
from trainact.lab.reporting.reading import read_runs
from trainact.lab.reporting.study import Study, as_json, build_study

PAGE = "report.html"
NUMBERS = "report.json"

Recipes = Callable[[], Mapping[str, Recipe]]


def known_recipes() -> Mapping[str, Recipe]:
    """Load the laboratory's own recipes.

    Returns:
        All of them by name.
    """
    from trainact.lab.recipes import all_recipes

    return all_recipes()


def main(options: ReportOptions, recipes: Recipes = known_recipes) -> int:
    """Write the report.

    Args:
        options: what the user asked for.
        recipes: returns the recipes that there are.

    Returns:
        The exit code, 0.
    """
    with json_alone(options.json) as put:
        records, warnings = read_runs(options.runs)
        for warning in shortened(warnings):
            _say(f"warning: {warning}")
        study = build_study(records, warnings, recipes())
        out = options.out or _default_out(options.runs[0])
        numbers = as_json(study)
        _write(study, numbers, out)
        _say(
            f"{how_many(study.num_runs, 'run')}, "
            f"{how_many(len(study.sections), 'experiment')}: {out / PAGE}; "
            f"{NUMBERS} and the PNGs beside it"
        )
        put(numbers)
    return EXIT_OK


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _default_out(first: Path) -> Path:
    return (first if first.is_dir() else first.parent) / "report"


def _write(study: Study, numbers: str, out: Path) -> None:
    colours = choose_colours(arm for section in study.sections for arm in section.arms)
    pictures = _draw(study, colours)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for picture in (p for drawn in pictures.values() for p in drawn):
            (out / picture.name).write_bytes(picture.png)
        (out / NUMBERS).write_text(numbers, encoding="utf-8")
        (out / PAGE).write_text(render(study, pictures, colours), encoding="utf-8")
    except OSError as error:
        raise LabError(
            f"the report could not be written to {out} ({describe_os_error(error)}): "
            "make room or give another folder with --out"
        ) from error


def _draw(study: Study, colours: Mapping[str, str]) -> dict[str, Sequence[Picture]]:
    pictures: dict[str, Sequence[Picture]] = {
        section.slug: section_pictures(section, colours) for section in study.sections
    }
    for chapter in study.chapters:
        for lengths in chapter.lengths:
            pictures[lengths.slug] = [lengths_picture(lengths, colours)]
    return pictures
