"""What has been run of each recipe, and what is uncertain about it, for the docs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby
from statistics import fmean

from trainact.lab.config import Setting, setting_hash
from trainact.lab.recipe import Recipe
from trainact.lab.recipes import RECIPES
from trainact.lab.records import Record
from trainact.lab.summary import BASELINE

_HEADINGS = ("paper", "recipe", "status", "runs", "gain", "paper's gain", "records")
_UNTRIED = "built, not run"
# What follows from another length.
_SCALED = {"warmup_epochs", "milestones"}


def recipes_section(records: Sequence[tuple[str, Record]]) -> list[str]:
    """Write which artefact of the paper is which recipe, and what was run of it.

    A run that recipes share counts for each of them. A gain is TrAct's lead over
    vanilla training in points of top-1 accuracy after the last epoch: the mean over
    seeds that both have, and over the arms with TrAct; the paper's where it prints
    numbers, the mean over the recipes of a row.

    Args:
        records: each with the path of its file.

    Returns:
        The lines of a Markdown table.
    """
    lines = [_line(_HEADINGS), _line(["---"] * len(_HEADINGS))]
    for artefact, members in groupby(RECIPES.values(), lambda r: r.artefact):
        lines += [_line((artefact, *cells)) for cells in _rows([*members], records)]
    return lines


def choices_section() -> list[str]:
    """Write what is unverified about the recipes and where they deviate.

    Returns:
        Lines of Markdown: every sentence once, under the artefacts that it is about,
        those about most of them first.
    """
    about: dict[str, dict[str, None]] = {}  # sentence → artefacts, in order
    for recipe in RECIPES.values():
        for sentence in _choices(recipe):
            about.setdefault(sentence, {})[recipe.artefact] = None
    parts: dict[tuple[str, ...], list[str]] = {}
    for sentence, artefacts in about.items():
        parts.setdefault(tuple(artefacts), []).append(sentence)
    everything = tuple({recipe.artefact: None for recipe in RECIPES.values()})
    lines: list[str] = []
    for artefacts in sorted(parts, key=lambda artefacts: len(artefacts) == 1):
        title = "All recipes" if artefacts == everything else "; ".join(artefacts)
        lines += [f"**{title}**", "", *(f"- {s}" for s in parts[artefacts]), ""]
    return lines[:-1]


def _choices(recipe: Recipe) -> list[str]:
    deviations = (f"*Deviation.* {sentence}" for sentence in recipe.deviations)
    return [*recipe.unverified, *deviations]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rows(
    recipes: list[Recipe], records: Sequence[tuple[str, Record]]
) -> Iterator[tuple[str, ...]]:
    """A row for everything that was run, and one for the recipes that were not."""
    left: list[Recipe] = []
    for recipe in recipes:
        tried = _tried(recipe, records)
        left += [] if tried else [recipe]
        for (path, changes), runs in tried.items():
            status = _status(recipe, changes, runs)
            gains = _gain(runs), _gain_of_paper([recipe])
            yield f"`{recipe.name}`", status, _runs(runs), *gains, f"`{path}`"
    if left:
        family = recipes[0].name.partition("-")[0]
        names = f"`{family}-*` ({len(left)})" if len(recipes) > 1 else f"`{family}`"
        if len(left) < len(recipes):
            names = f"the other {len(left)} of `{family}-*`"
        yield names, _UNTRIED, "", "", _gain_of_paper(left), ""


def _tried(
    recipe: Recipe, records: Sequence[tuple[str, Record]]
) -> dict[tuple[str, str], list[Record]]:
    """The runs of a recipe by file and by what was changed, '' for nothing."""
    found: dict[tuple[str, str], list[Record]] = defaultdict(list)
    arms = {arm.name for arm in recipe.arms}
    own_hash = setting_hash(recipe.setting)
    for path, record in records:
        same = record.recipe_hash == own_hash
        if same and record.config.arm in arms:
            found[path, ""].append(record)
        elif record.recipe == recipe.name:
            changes = _changes(recipe.setting, record.config.setting)
            unchanged = "other methods" if same else "an earlier version"
            found[path, changes or unchanged].append(record)
    return found


def _changes(wanted: Setting, had: Setting) -> str:
    """For example ``5 of 100 epochs, 10,000 images, precision bf16-mixed``."""
    ours, theirs = wanted.to_json(), had.to_json()
    changed = [name for name in ours if theirs[name] != ours[name]]
    parts: list[str] = []
    for name in changed:
        if name == "epochs":
            parts.append(f"{had.epochs} of {wanted.epochs} epochs")
        elif name == "limit":
            parts.append(f"{had.limit:,} images")
        elif name not in _SCALED or had.epochs == wanted.epochs:
            parts.append(f"{name} {theirs[name]}")
    return ", ".join(parts)


def _status(recipe: Recipe, changes: str, runs: Sequence[Record]) -> str:
    if changes:
        config = runs[0].config
        short = config.epochs < recipe.setting.epochs or config.limit is not None
        return f"run at reduced length: {changes}" if short else f"run with {changes}"
    done = {(record.config.arm, record.config.seed) for record in runs}
    wanted = {(arm.name, seed) for arm in recipe.arms for seed in recipe.seeds}
    if wanted <= done:
        return "run in full"
    return f"run at full length, {len(wanted & done)} of {len(wanted)} runs"


def _runs(records: Sequence[Record]) -> str:
    """For example ``vanilla: 2 seeds, tract λ=0.1: 1 seed``."""
    seeds: dict[str, set[int]] = defaultdict(set)
    for record in records:
        seeds[record.config.arm].add(record.config.seed)
    return ", ".join(
        f"{arm}: {len(found)} seed{'s' if len(found) > 1 else ''}"
        for arm, found in seeds.items()
    )


def _gain(records: Sequence[Record]) -> str:
    """For example ``+4.80``; nothing without a pair of runs."""
    runs = {(r.config.arm, r.config.seed): r for r in records}
    gains = [
        100 * (run.accuracy[-1] - runs[BASELINE, seed].accuracy[-1])
        for (_, seed), run in runs.items()
        if run.config.method == "tract" and (BASELINE, seed) in runs
    ]
    return f"{fmean(gains):+.2f}" if gains else ""


def _gain_of_paper(recipes: Sequence[Recipe]) -> str:
    gains: list[float] = []
    for recipe in recipes:
        printed = {arm.method: arm.expected for arm in recipe.arms if arm.expected}
        if printed.keys() >= {BASELINE, "tract"}:
            gains.append(printed["tract"].top1 - printed[BASELINE].top1)
    return f"{fmean(gains):+.2f}" if gains else ""
