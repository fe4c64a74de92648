"""Learning rates chosen on held-out images by a seed that is never reported.

Runs that differ in nothing but learning rate and seed are one arm, and arms that differ
in nothing but the method and its λ are one problem. All arms of a problem are trained
at the same rates with seed 0, on nine tenths of the training images; the last tenth,
which is held out, chooses. The rates grow by factors of two until no arm's best is the
lowest or the highest. Then other seeds, fresh ones, are trained on all training images
and tested on the test images, at the arm's best rate and at vanilla training's. An arm
that is too far behind vanilla training on the held-out images may be left out there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from trainact.lab.config import RunConfig
from trainact.lab.jobs import Job
from trainact.lab.methods import is_current
from trainact.lab.ranks import agree
from trainact.lab.records import Record
from trainact.lab.shorten import is_smoke
from trainact.lab.summary import BASELINE
from trainact.lab.workspace import Workspace

TUNING_SEED = 0
# Of one arm and seed.
_ByRate = dict[float, Job]


def tuning_rounds(
    tuning: Sequence[Job],
    fresh: Sequence[Job],
    workspace: Workspace,
    most_behind: float = math.inf,
) -> Iterator[list[Job]]:
    """Give what is known to be trained, until its records ask for nothing more.

    Args:
        tuning: as for `tuned_jobs`.
        fresh: as for `tuned_jobs`.
        workspace: of the runs, read before every round.
        most_behind: as for `tuned_jobs`.

    Yields:
        All runs that are known so far, whether recorded or not.
    """
    known: list[Job] = []
    while True:
        records = agree(workspace.records.read()[0])
        if (chosen := tuned_jobs(tuning, fresh, records, most_behind)) == known:
            return
        yield (known := chosen)


def tuned_jobs(
    tuning: Iterable[Job],
    fresh: Iterable[Job],
    records: Iterable[Record],
    most_behind: float = math.inf,
) -> list[Job]:
    """List the runs of a comparison, as far as the records tell.

    Args:
        tuning: the arms with the seed that chooses, at one learning rate or several.
        fresh: the same arms with other seeds; the seed that chooses is left out.
        records: of whatever has been trained.
        most_behind: share of the held-out images by which an arm may be behind vanilla
            training, each at its best rate, and still have fresh seeds.

    Returns:
        The runs that choose the rates, and of problems where they are chosen those of
        the fresh seeds.
    """
    scores = {r.config: final_accuracy(r) for r in records if is_current(r)}
    problems: dict[RunConfig, dict[RunConfig, _ByRate]] = {}
    for job in tuning:
        arms = problems.setdefault(_baseline(job.config), {})
        arms.setdefault(_arm(job.config), {})[job.config.lr] = _held_out(job)
    tried: dict[RunConfig, set[float]] = {}  # also by arms that are not asked for now
    for config in scores:
        if (config.seed, config.evaluated) == (TUNING_SEED, "held-out"):
            tried.setdefault(_baseline(config), set()).add(config.lr)
    chosen: list[Job] = []
    best: dict[RunConfig, float] = {}
    for problem, arms in problems.items():
        runs, found = _choose_rates(arms, tried.get(problem, set()), scores)
        chosen += runs
        reached = {a: scores[_at(arms[a], lr).config] for a, lr in found.items()}
        least = reached.get(problem, -math.inf) - most_behind
        best |= {arm: lr for arm, lr in found.items() if reached[arm] >= least}
    return [*chosen, *_fresh_jobs(fresh, best)]


def _choose_rates(
    arms: Mapping[RunConfig, _ByRate],
    tried: set[float],
    scores: Mapping[RunConfig, float],
) -> tuple[list[Job], dict[RunConfig, float]]:
    """Runs of a problem that choose, and each arm's best rate once all are recorded."""
    grid = tried.union(*arms.values())
    while True:
        runs = {a: {r: _at(jobs, r) for r in sorted(grid)} for a, jobs in arms.items()}
        known = [job for jobs in runs.values() for job in jobs.values()]
        if any(job.config not in scores for job in known):
            return known, {}
        best = {
            arm: best_rate({rate: scores[job.config] for rate, job in jobs.items()})
            for arm, jobs in runs.items()
        }
        low, high = min(grid), max(grid)
        grown = {low / 2} if low in best.values() else set[float]()
        grown |= {2 * high} if high in best.values() else set[float]()
        if not grown:
            return known, best
        grid |= grown


def _fresh_jobs(fresh: Iterable[Job], best: Mapping[RunConfig, float]) -> Iterator[Job]:
    """Each seed at the arm's best rate and at vanilla training's."""
    by_seed: dict[tuple[RunConfig, int], _ByRate] = {}
    for job in fresh:
        arm, seed = _arm(job.config), job.config.seed
        if seed != TUNING_SEED and arm in best:
            by_seed.setdefault((arm, seed), {})[job.config.lr] = job
    for (arm, _), jobs in by_seed.items():
        rates = {best[arm], best.get(_baseline(arm), best[arm])}
        yield from (_at(jobs, rate) for rate in sorted(rates))


def best_rate(accuracies: Mapping[float, float]) -> float:
    """Choose among the learning rates of one arm.

    Args:
        accuracies: by learning rate, at least one.

    Returns:
        The one with the highest; of equals the lowest inner one, so that the lowest and
        the highest rate are chosen only where they are better than all others.
    """
    lowest, *others = sorted(accuracies)
    return max([*others[:-1], lowest, *others[-1:]], key=accuracies.__getitem__)


def final_accuracy(record: Record) -> float:
    """Say how good a run was in the end.

    Args:
        record: of the run.

    Returns:
        Its accuracy after the last epoch; minus infinity for one that was lost.
    """
    return -math.inf if record.diverged else record.accuracy[-1]


def _at(jobs: _ByRate, rate: float) -> Job:
    some = next(iter(jobs.values()))
    return jobs.get(rate) or replace(some, config=replace(some.config, lr=rate))


def _held_out(job: Job) -> Job:
    """A smoke has too few images to hold any out."""
    evaluated = "test" if is_smoke(job.config) else "held-out"
    return replace(job, config=replace(job.config, evaluated=evaluated))


def _arm(config: RunConfig) -> RunConfig:
    return replace(config, lr=0.0, seed=TUNING_SEED, evaluated="test", initial=None)


def _baseline(config: RunConfig) -> RunConfig:
    return replace(_arm(config), method=BASELINE, lam=None)
