"""Everything that is said about one arm of an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainact.lab.records import Record
from trainact.lab.reporting.grouping import View
from trainact.lab.reporting.scores import Metric, Score, scores
from trainact.lab.reporting.speed import Speed, speeds
from trainact.lab.summary import BASELINE, by_arm


@dataclass(frozen=True)
class LostRun:
    """A run whose loss stopped being finite.

    Attributes:
        seed: of the run.
        epoch: in which it happened, from 1.
        step: at which it happened, from 1; None where it was not recorded.
    """

    seed: int
    epoch: int
    step: int | None


@dataclass(frozen=True)
class ArmResult:
    """One method (with its λ) in one experiment.

    Attributes:
        label: method and λ.
        method: name.
        lam: λ or None.
        num_runs: that are counted.
        seeds: of the runs.
        top1: accuracy.
        top5: likewise; None where it was not measured.
        speed: see there.
        lost: runs that diverged; they count with the accuracy they then had.
        layers: names of the layers that the method changed.
    """

    label: str
    method: str
    lam: float | None
    num_runs: int
    seeds: tuple[int, ...]
    top1: Score
    top5: Score | None
    speed: Speed
    lost: tuple[LostRun, ...]
    layers: tuple[str, ...]

    @property
    def is_baseline(self) -> bool:
        """Whether this is what the others are compared with."""
        return self.label == BASELINE

    def score(self, metric: Metric) -> Score | None:
        """Look up one of the accuracies.

        Args:
            metric: top-1 or top-5.

        Returns:
            The score; None where it was not measured.
        """
        return self.top1 if metric == "accuracy" else self.top5


def arm_results(view: View) -> tuple[ArmResult, ...]:
    """Work out every arm of an experiment.

    Args:
        view: the experiment.

    Returns:
        The arms, in the view's order.
    """
    top1, top5 = scores(view, "accuracy"), scores(view, "top5")
    found_speeds = speeds(view.records)
    return tuple(
        ArmResult(
            label=label,
            method=runs[0].config.method,
            lam=runs[0].config.lam,
            num_runs=len(runs),
            seeds=tuple(sorted({run.config.seed for run in runs})),
            top1=top1[label],
            top5=top5.get(label),
            speed=found_speeds[label],
            lost=_lost(runs),
            layers=runs[0].layers,
        )
        for label, runs in by_arm(view.records).items()
    )


def _lost(runs: Sequence[Record]) -> tuple[LostRun, ...]:
    return tuple(
        LostRun(run.config.seed, len(run.loss), run.diverged_step)
        for run in runs
        if run.diverged
    )
