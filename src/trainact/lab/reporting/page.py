"""The page: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from trainact._version import __version__
from trainact.lab.reporting import tables
from trainact.lab.reporting.figures import Picture
from trainact.lab.reporting.grouping import show
from trainact.lab.reporting.provenance import provenance
from trainact.lab.reporting.sections import Section
from trainact.lab.reporting.study import Study

_MOST_LISTED = 20
_NOT_SHOWN = (None, False, ())


def render(
    study: Study,
    pictures: Mapping[str, Sequence[Picture]],
    colours: Mapping[str, str],
) -> str:
    """Write the page.

    Args:
        study: what it says.
        pictures: slug of a section or a study -> its pictures.
        colours: of the arms.

    Returns:
        The text of the HTML file.
    """
    environment = Environment(
        loader=PackageLoader("trainact.lab.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html").render(
        study=study,
        pictures=pictures,
        colours=colours,
        version=__version__,
        tables=tables,
        facts=facts,
        shortened=shortened,
        data_uri=_data_uri,
    )
    return page.lstrip() + "\n"


def shortened(lines: Sequence[str]) -> list[str]:
    """Keep a list on the page short; report.json has all of it.

    Args:
        lines: to be listed.

    Returns:
        The first of them, and how many are left out.
    """
    rest = len(lines) - _MOST_LISTED
    more = [f"… and {rest} more, in report.json"] if rest > 0 else []
    return [*lines[:_MOST_LISTED], *more]


def facts(section: Section) -> dict[str, Sequence[str]]:
    """List where the numbers of a section come from.

    Args:
        section: an experiment.

    Returns:
        Heading -> its lines; what is not known is left out.
    """
    found = provenance(section.view.records)
    recipe = section.view.recipe
    setting = section.view.experiment.setting.to_json()
    lines: dict[str, Sequence[str]] = {
        "Setting": [
            ", ".join(
                f"{name} {show(value)}"
                for name, value in setting.items()
                if value not in _NOT_SHOWN
            )
        ],
        "Changed layers": _changed_layers(section),
        "Data": [found.data],
        "Parameters": [f"{count:,}" for count in found.num_parameters],
        "Seeds": [_numbers(found.seeds) + _recipe_seeds(section)],
        "Machine": found.machines,
        "Versions": found.versions,
        "Commit": found.commits,
        "Command": shortened(found.commands),
        "Recipe hash": found.recipe_hashes,
        "Started (UTC)": [" to ".join(dict.fromkeys(found.started))],
    }
    if recipe is not None:
        lines |= {"Unverified": recipe.unverified, "Deviations": recipe.deviations}
    if recipe is not None and recipe.hours is not None:
        lines["Expected time"] = [f"{recipe.hours:g} h a run, {recipe.hardware}"]
    return {heading: values for heading, values in lines.items() if any(values)}


def _changed_layers(section: Section) -> list[str]:
    labels: dict[tuple[str, ...], list[str]] = {}
    for arm in section.arms:
        if arm.layers:
            labels.setdefault(arm.layers, []).append(arm.label)
    return [f"{', '.join(layers)} ({', '.join(labels[layers])})" for layers in labels]


def _recipe_seeds(section: Section) -> str:
    recipe = section.view.recipe
    if recipe is None or set(recipe.seeds) == {
        r.config.seed for r in section.view.records
    }:
        return ""
    return f" (the recipe's: {_numbers(recipe.seeds)})"


def _numbers(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _data_uri(picture: Picture) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture.png).decode()}"
