"""Final accuracy against the length of training: recipes that differ in epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from trainact.lab.config import Setting
from trainact.lab.reporting.sections import Section

_Family = tuple[str, str, Setting]


@dataclass(frozen=True)
class LengthPoint:
    """One arm trained for one number of epochs.

    Attributes:
        epochs: number.
        num_runs: that were made.
        mean: final accuracy in per cent.
        std: over seeds; None with one.
        num_lost: how many of the runs lost their loss.
    """

    epochs: int
    num_runs: int
    mean: float
    std: float | None
    num_lost: int


@dataclass(frozen=True)
class LengthLine:
    """One arm over the lengths.

    Attributes:
        label: method and λ.
        method: name.
        lam: λ or None.
        points: with ascending epochs.
    """

    label: str
    method: str
    lam: float | None
    points: tuple[LengthPoint, ...]


@dataclass(frozen=True)
class LengthStudy:
    """A family of recipes.

    Attributes:
        name: such as ``fig3-sgd``.
        slug: for file names and links.
        is_own: whether every length is in its recipe's own setting.
        chapter: heading under which it stands.
        epochs: all lengths, ascending.
        lines: one per arm.
    """

    name: str
    slug: str
    is_own: bool
    chapter: str
    epochs: tuple[int, ...]
    lines: tuple[LengthLine, ...]


def length_studies(sections: Sequence[Section]) -> list[LengthStudy]:
    """Find the families of which at least two lengths were run.

    Args:
        sections: of the page; where two have the same length the first counts.

    Returns:
        One study per family.
    """
    families: dict[_Family, dict[int, Section]] = {}
    for section in sections:
        if (family := _family(section)) is not None:
            by_epochs = families.setdefault(family, {})
            by_epochs.setdefault(section.view.experiment.setting.epochs, section)
    return [
        _study(family[0], [by_epochs[epochs] for epochs in sorted(by_epochs)])
        for family, by_epochs in families.items()
        if len(by_epochs) > 1
    ]


def _family(section: Section) -> _Family | None:
    """What recipes share that differ in their length, and in what is tuned to it."""
    recipe = section.view.recipe
    if recipe is None or not recipe.name.endswith(f"-{recipe.setting.epochs}"):
        return None
    experiment = section.view.experiment
    shared = replace(
        experiment.setting, epochs=0, lr=0.0, warmup_epochs=0, milestones=()
    )
    return recipe.name.rpartition("-")[0], experiment.data_hash, shared


def _study(name: str, sections: Sequence[Section]) -> LengthStudy:
    lines: dict[str, LengthLine] = {}
    for section in sections:
        epochs = section.view.experiment.setting.epochs
        for arm in section.arms:
            point = LengthPoint(
                epochs, arm.num_runs, arm.top1.mean, arm.top1.std, len(arm.lost)
            )
            line = lines.get(arm.label) or LengthLine(
                arm.label, arm.method, arm.lam, ()
            )
            lines[arm.label] = replace(line, points=(*line.points, point))
    is_own = all(section.view.is_own for section in sections)
    return LengthStudy(
        name=name,
        slug=f"{sections[0].slug if not is_own else name}-lengths",
        is_own=is_own,
        chapter=sections[0].chapter,
        epochs=tuple(s.view.experiment.setting.epochs for s in sections),
        lines=tuple(lines.values()),
    )
