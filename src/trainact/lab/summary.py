r"""What records say about methods: curves over seeds and epochs to reach vanilla.

With :math:`a_{s,e}` the accuracy of seed s after epoch e, an arm's curve is
:math:`m_e = \frac{1}{S} \sum_s a_{s,e}`, and an arm reaches vanilla at the first epoch
with :math:`m_e \ge m^{vanilla}_E`, E being vanilla's last epoch. Vanilla itself is
measured by the same rule, since it may be flat long before its end; the speed-up is
vanilla's epoch divided by the arm's.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from trainact.lab.records import Record

BASELINE = "vanilla"
# Accuracies are stored with six digits; means of equal ones may differ by rounding.
_TIE = 1e-9


@dataclass(frozen=True)
class Arm:
    """One method (with its λ) on one model, over its seeds.

    Attributes:
        model: resolved name.
        method: name.
        lam: λ or None.
        label: method and λ, for tables and plots.
        lr: learning rate.
        seeds: of the finished runs.
        num_diverged: how many of them lost their loss.
        mean_curve: test accuracy after every epoch, mean over seeds.
        std_curve: its std over seeds with Bessel's correction; None with one seed.
        epochs_to_baseline: first epoch at which the mean curve reaches the last value
            of vanilla's; None if never, or without vanilla.
        speed_up: vanilla's such epoch divided by this arm's.
        seconds_per_epoch: median over epochs and seeds, training only.
        layers: names of the layers that the method changed.
    """

    model: str
    method: str
    lam: float | None
    label: str
    lr: float
    seeds: tuple[int, ...]
    num_diverged: int
    mean_curve: tuple[float, ...]
    std_curve: tuple[float, ...] | None
    epochs_to_baseline: int | None
    speed_up: float | None
    seconds_per_epoch: float
    layers: tuple[str, ...]

    @property
    def final_mean(self) -> float:
        """Mean accuracy after the last epoch."""
        return self.mean_curve[-1]

    @property
    def final_std(self) -> float | None:
        """Std over seeds of the accuracy after the last epoch."""
        return None if self.std_curve is None else self.std_curve[-1]


def summarise(records: Iterable[Record]) -> dict[str, list[Arm]]:
    """Aggregate records over seeds.

    Args:
        records: finished runs that differ in model, method, λ and seed only.

    Returns:
        The arms of every model, in the order in which they appear.
    """
    by_model: dict[str, list[Record]] = {}
    for record in records:
        by_model.setdefault(record.config.model, []).append(record)
    return {model: summarise_arms(runs) for model, runs in by_model.items()}


def summarise_arms(records: Iterable[Record]) -> list[Arm]:
    """Aggregate the records of one experiment over seeds.

    Args:
        records: finished runs that differ in method, λ and seed only.

    Returns:
        The arms, in the order in which they appear.
    """
    arms = by_arm(records)
    baseline = _baseline_epoch(arms)
    return [_summarise_arm(label, runs, baseline) for label, runs in arms.items()]


def by_arm(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Sort records by method and λ.

    Args:
        records: finished runs.

    Returns:
        Name of the arm -> its runs, in the order in which they appear.
    """
    arms: dict[str, list[Record]] = {}
    for record in records:
        arms.setdefault(record.config.arm, []).append(record)
    return arms


def _baseline_epoch(arms: dict[str, list[Record]]) -> tuple[float, int] | None:
    """Vanilla's last mean accuracy and the epoch at which it first got there."""
    if BASELINE not in arms:
        return None
    curve, _ = mean_and_std(curves(arms[BASELINE]))
    epoch = first_epoch_at(curve, curve[-1])
    return None if epoch is None else (curve[-1], epoch)


def _summarise_arm(
    label: str, runs: Sequence[Record], baseline: tuple[float, int] | None
) -> Arm:
    mean_curve, std_curve = mean_and_std(curves(runs))
    reached = first_epoch_at(mean_curve, baseline[0]) if baseline else None
    first = runs[0]
    return Arm(
        model=first.config.model,
        method=first.config.method,
        lam=first.config.lam,
        label=label,
        lr=first.config.lr,
        seeds=tuple(sorted(run.config.seed for run in runs)),
        num_diverged=sum(run.diverged for run in runs),
        mean_curve=mean_curve,
        std_curve=std_curve,
        epochs_to_baseline=reached,
        speed_up=baseline[1] / reached if baseline and reached else None,
        seconds_per_epoch=statistics.median(
            seconds for run in runs for seconds in run.seconds
        ),
        layers=first.layers,
    )


def curves(
    runs: Sequence[Record], metric: Literal["accuracy", "top5"] = "accuracy"
) -> list[tuple[float, ...]]:
    """Collect the accuracy curves of runs, all of full length.

    A run that diverged ended early; its model stays as it was then, and so does its
    accuracy: its last value is held to the end.

    Args:
        runs: of one arm.
        metric: top-1 or top-5; runs without it are left out.

    Returns:
        One curve per run, one value per epoch.
    """
    measured = [(run.config.epochs, getattr(run, metric)) for run in runs]
    return [
        values + (epochs - len(values)) * values[-1:]
        for epochs, values in measured
        if values is not None
    ]


def mean_and_std(
    seed_curves: Sequence[Sequence[float]],
) -> tuple[tuple[float, ...], tuple[float, ...] | None]:
    """Mean and std over seeds for every epoch.

    Args:
        seed_curves: one curve per seed.

    Returns:
        The mean curve; the std curve (Bessel's correction), or None with one seed.
    """
    columns = list(zip(*seed_curves, strict=True))
    mean = tuple(statistics.fmean(column) for column in columns)
    if len(seed_curves) < 2:
        return mean, None
    return mean, tuple(statistics.stdev(column) for column in columns)


def first_epoch_at(curve: Sequence[float], level: float) -> int | None:
    """Find when a curve first reaches a level.

    Args:
        curve: one value per epoch.
        level: to be reached.

    Returns:
        The epoch, counted from 1, or None if never.
    """
    reached = (epoch for epoch, value in enumerate(curve, 1) if value >= level - _TIE)
    return next(reached, None)
