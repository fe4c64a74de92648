"""One table over many models, as in the paper's Tables 1, 6 and 7."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from trainact.lab.config import Setting
from trainact.lab.recipe import Recipe
from trainact.lab.reporting.arms import ArmResult
from trainact.lab.reporting.grouping import Change
from trainact.lab.reporting.scores import (
    Metric,
    PairedTest,
    Spread,
    paired_test,
    printed,
)
from trainact.lab.reporting.sections import Section
from trainact.lab.summary import BASELINE

_FAMILY = re.compile(r"(table[17])-(.+)")
# Its recipes hold the baseline of tables that have none of their own.
_BASELINES = "table1"


@dataclass(frozen=True)
class ModelRow:
    """One model; accuracies in per cent with their std over seeds.

    Attributes:
        model: name in the recipe.
        slug: of the section about it.
        baseline: ours.
        arm: ours.
        gain: the second minus the first.
        paper_baseline: the paper's, None where it prints none.
        paper_arm: likewise.
        paper_gain: likewise.
    """

    model: str
    slug: str
    baseline: Spread
    arm: Spread
    gain: float
    paper_baseline: Spread | None
    paper_arm: Spread | None
    paper_gain: float | None


@dataclass(frozen=True)
class Verdict:
    """What many models say together.

    Attributes:
        mean_gain: in percentage points.
        wins: number of models with a gain above 0.
        test: of the gains, over models.
    """

    mean_gain: float
    wins: int
    test: PairedTest


@dataclass(frozen=True)
class ModelTable:
    """A table over models.

    Attributes:
        family: such as ``table1``.
        metric: ``accuracy`` or ``top5``.
        chapter: heading under which it stands.
        changes: in what all its experiments differ from their recipes.
        labels: of the baseline and of the arm, with their epochs.
        paper_labels: likewise, with the paper's epochs.
        paper_label: how to call the paper's numbers beside these.
        rows: one per model.
        ours: over these models.
        paper: the paper's numbers of the same models; None if one has none.
        paper_all: the paper's, of all models of the family; None without numbers.
    """

    family: str
    metric: Metric
    chapter: str
    changes: tuple[Change, ...]
    labels: tuple[str, str]
    paper_labels: tuple[str, str]
    paper_label: str
    rows: tuple[ModelRow, ...]
    ours: Verdict
    paper: Verdict | None
    paper_all: Verdict | None


@dataclass(frozen=True)
class _Pair:
    """An experiment's arm with its baseline, which may be of another experiment."""

    family: str
    model: str
    section: Section
    arm: ArmResult
    baseline: ArmResult
    labels: tuple[str, str]
    paper_labels: tuple[str, str]

    @property
    def shared(self) -> tuple[object, ...]:
        """What all rows of a table have in common."""
        view = self.section.view
        data_hash = view.experiment.data_hash
        return self.family, view.changes, data_hash, self.labels


def model_tables(
    sections: Sequence[Section], recipes: Mapping[str, Recipe]
) -> list[ModelTable]:
    """Make a table of every family of models, for top-1 and for top-5.

    Args:
        sections: of the page.
        recipes: all there are.

    Returns:
        The tables; models that were run in another setting have their own.
    """
    families: dict[tuple[object, ...], list[_Pair]] = {}
    for section in sections:
        match = _FAMILY.fullmatch(section.view.name or "")
        if match and (pair := _pair(section, match[1], match[2], sections)):
            families.setdefault(pair.shared, []).append(pair)
    metrics: tuple[Metric, ...] = ("accuracy", "top5")
    tables = [
        _table(metric, pairs, recipes)
        for pairs in families.values()
        for metric in metrics
    ]
    return [table for table in tables if table is not None]


def _pair(
    section: Section, family: str, model: str, sections: Sequence[Section]
) -> _Pair | None:
    recipe = section.view.recipe
    if recipe is None:
        return None
    names = [arm.name for arm in recipe.arms if arm.name != BASELINE]
    arm = next((arm for arm in section.arms if arm.label in names), None)
    for holder in (section, *_holders(section, model, sections)):
        if arm is not None and holder.baseline is not None:
            here = holder.view.experiment.setting, section.view.experiment.setting
            full = (holder.view.recipe or recipe).setting, recipe.setting
            return _Pair(
                family=family,
                model=model,
                section=section,
                arm=arm,
                baseline=holder.baseline,
                labels=_labels(arm, *here),
                paper_labels=_labels(arm, *full),
            )
    return None


def _holders(
    section: Section, model: str, sections: Sequence[Section]
) -> list[Section]:
    """The sections that may hold the baseline of one without."""
    own = section.view
    return [
        other
        for other in sections
        if other.view.name == f"{_BASELINES}-{model}"
        and other.view.is_own == own.is_own
        and other.view.experiment.data_hash == own.experiment.data_hash
    ]


def _labels(arm: ArmResult, baseline: Setting, own: Setting) -> tuple[str, str]:
    """Baseline and arm with their epochs."""
    return f"{BASELINE}, {baseline.epochs} epochs", f"{arm.label}, {own.epochs} epochs"


def _table(
    metric: Metric, pairs: Sequence[_Pair], recipes: Mapping[str, Recipe]
) -> ModelTable | None:
    first = pairs[0]
    paper = _paper_pairs(first.family, metric, recipes)
    rows = [row for pair in pairs if (row := _row(pair, metric, paper))]
    if not rows:
        return None
    return ModelTable(
        family=first.family,
        metric=metric,
        chapter=first.section.chapter,
        changes=first.section.view.changes,
        labels=first.labels,
        paper_labels=first.paper_labels,
        paper_label=first.section.view.paper_label,
        rows=tuple(rows),
        ours=_verdict((row.arm[0], row.baseline[0]) for row in rows),
        paper=_verdict_of_paper(paper, [row.model for row in rows]),
        paper_all=_verdict_of_paper(paper, list(paper)),
    )


def _row(
    pair: _Pair, metric: Metric, paper: Mapping[str, tuple[Spread, Spread]]
) -> ModelRow | None:
    baseline, arm = pair.baseline.score(metric), pair.arm.score(metric)
    if baseline is None or arm is None:
        return None
    paper_arm, paper_baseline = paper.get(pair.model, (None, None))
    return ModelRow(
        model=pair.model,
        slug=pair.section.slug,
        baseline=(baseline.mean, baseline.std),
        arm=(arm.mean, arm.std),
        gain=arm.mean - baseline.mean,
        paper_baseline=paper_baseline,
        paper_arm=paper_arm,
        paper_gain=paper_arm[0] - paper_baseline[0]
        if paper_arm and paper_baseline
        else None,
    )


def _paper_pairs(
    family: str, metric: Metric, recipes: Mapping[str, Recipe]
) -> dict[str, tuple[Spread, Spread]]:
    """The paper's numbers: model -> those of the arm and of its baseline."""
    found: dict[str, tuple[Spread, Spread]] = {}
    for name, recipe in recipes.items():
        match = _FAMILY.fullmatch(name)
        if match is None or match[1] != family:
            continue
        holders = (recipe, recipes.get(f"{_BASELINES}-{match[2]}"))
        arm = _of_paper(recipe, metric, is_baseline=False)
        baseline = next(
            (s for h in holders if h and (s := _of_paper(h, metric, is_baseline=True))),
            None,
        )
        if arm and baseline:
            found[match[2]] = arm, baseline
    return found


def _of_paper(recipe: Recipe, metric: Metric, *, is_baseline: bool) -> Spread | None:
    for arm in recipe.arms:
        if arm.expected and (arm.name == BASELINE) == is_baseline:
            return printed(arm.expected, metric)
    return None


def _verdict_of_paper(
    paper: Mapping[str, tuple[Spread, Spread]], models: Sequence[str]
) -> Verdict | None:
    if not models or any(model not in paper for model in models):
        return None
    return _verdict((paper[m][0][0], paper[m][1][0]) for m in models)


def _verdict(pairs: Iterable[tuple[float, float]]) -> Verdict:
    arms, baselines = zip(*pairs, strict=True)
    gains = [arm - baseline for arm, baseline in zip(arms, baselines, strict=True)]
    return Verdict(
        mean_gain=statistics.fmean(gains),
        wins=sum(gain > 0 for gain in gains),
        test=paired_test(arms, baselines),
    )
