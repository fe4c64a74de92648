"""Every arm at its own best learning rate: tuned with one seed, repeated with more.

Runs that differ in nothing but learning rate and seed are one arm. The rate is that of
the highest final accuracy with seed 0, so that every arm has the same budget of tuning,
one run for each rate that its recipes have; other seeds are trained at that rate alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from trainact.lab.config import RunConfig
from trainact.lab.jobs import Job
from trainact.lab.records import Record
from trainact.lab.workspace import Workspace

TUNING_SEED = 0


def tuning_jobs(jobs: Iterable[Job]) -> list[Job]:
    """Choose the runs that find the learning rates.

    Args:
        jobs: of recipes that differ in the learning rate.

    Returns:
        Those of the first seed.
    """
    return [job for job in jobs if job.config.seed == TUNING_SEED]


def tuned_jobs(jobs: Sequence[Job], records: Iterable[Record]) -> list[Job]:
    """Choose the runs that are to be trained, as far as that is known.

    Args:
        jobs: of recipes that differ in the learning rate.
        records: of whatever has been trained.

    Returns:
        All of the first seed, and of an arm whose first seed is recorded at every rate,
        those of the other seeds at the best.
    """
    of_first = {_arm(job.config): set[float]() for job in jobs}
    for job in tuning_jobs(jobs):
        of_first[_arm(job.config)].add(job.config.lr)
    best = best_rates(records, of_first)
    return [
        job
        for job in jobs
        if job.config.seed == TUNING_SEED or best.get(_arm(job.config)) == job.config.lr
    ]


def tuning_rounds(jobs: Sequence[Job], workspace: Workspace) -> Iterator[list[Job]]:
    """Give what is to be trained first and, once that is recorded, what then.

    Args:
        jobs: of recipes that differ in the learning rate.
        workspace: of the runs, read when the second round is asked for.

    Yields:
        The runs of the first seed, then all that are known.
    """
    yield tuning_jobs(jobs)
    yield tuned_jobs(jobs, workspace.records.read()[0])


def best_rates(
    records: Iterable[Record], rates: dict[RunConfig, set[float]]
) -> dict[RunConfig, float]:
    """Find the learning rate of every arm that has been tuned.

    Args:
        records: of whatever has been trained.
        rates: by arm, to be tried.

    Returns:
        By arm, where all rates have been; the first of equals. A lost run is the worst.
    """
    tried: dict[RunConfig, dict[float, float]] = {arm: {} for arm in rates}
    for record in records:
        arm = _arm(record.config)
        if record.config.seed == TUNING_SEED and record.config.lr in rates.get(arm, ()):
            tried[arm][record.config.lr] = final_accuracy(record)
    return {
        arm: best_rate(found)
        for arm, found in tried.items()
        if found.keys() == rates[arm]
    }


def best_rate(accuracies: dict[float, float]) -> float:
    """Choose among the learning rates of one arm.

    Args:
        accuracies: by learning rate, at least one.

    Returns:
        The one with the highest; the first of equals.
    """
    return max(sorted(accuracies), key=accuracies.__getitem__)


def final_accuracy(record: Record) -> float:
    """Say how good a run was in the end.

    Args:
        record: of the run.

    Returns:
        Its accuracy after the last epoch; minus infinity for one that was lost.
    """
    return -math.inf if record.diverged else record.accuracy[-1]


def _arm(config: RunConfig) -> RunConfig:
    return replace(config, lr=0.0, seed=TUNING_SEED)
