"""Comparisons from one table of runs: paired differences and speed-ups.

Everything is of runs that `trainact sweep --tuned` makes: seed 0 on held-out images
chooses the learning rates, other seeds are reported on the test images. Or of runs at a
rate that was given, of which seed 0 is not reported either. Accuracies are in per cent.
Tables, tests and plots all begin with `run_table`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from trainact.lab.config import RunConfig
from trainact.lab.methods import METHODS
from trainact.lab.records import Record
from trainact.lab.summary import BASELINE
from trainact.lab.tuning import TUNING_SEED, best_rate, final_accuracy

OWN, VANILLAS = "each arm's own best rate", "vanilla's best rate for every arm"
GIVEN, HELD_OUT = "the given rate", "each arm's own best rate, on held-out images"
_TRAINING = ["arm", "epochs"]
_ARM = ["problem", *_TRAINING]
_CONFIG = [field.name for field in fields(RunConfig)]
_OF_LENGTH = ("epochs", "warmup_epochs", "milestones")
_OF_RUN = ("method", "lam", "lr", "seed", "evaluated")
_PROBLEM = [name for name in _CONFIG if name not in (*_OF_LENGTH, *_OF_RUN)]


def run_table(records: Iterable[Record]) -> pd.DataFrame:
    """Put runs into a table, one row each.

    Args:
        records: of any problems; of runs with the same configuration one counts.

    Returns:
        The columns of `RunConfig`, ``arm``, ``images`` trained on, ``accuracy`` after
        the last epoch, ``score``, which is minus infinity for a diverged run,
        ``seconds`` of training, and ``problem``, a number: runs are compared where
        nothing differs but epochs, method, λ, rate, seed and images of the evaluation.
        In the order of problems, of the laboratory's list of methods, of λ and epochs.
    """
    rows = [
        {
            **record.config.to_json(),
            "arm": record.config.arm,
            "images": record.data["train"],
            "accuracy": 100 * record.accuracy[-1],
            "score": final_accuracy(record),
            "seconds": sum(record.seconds),
        }
        for record in records
    ]
    runs = pd.DataFrame(rows).drop_duplicates(_CONFIG)
    problem = runs.groupby(_PROBLEM, sort=False, dropna=False).ngroup()
    place = runs.method.map({method: place for place, method in enumerate(METHODS)})
    runs = runs.assign(problem=problem, place=place)
    return runs.sort_values(["problem", "place", "lam", "epochs", "lr", "seed"])


def chosen_rates(runs: pd.DataFrame) -> pd.Series:
    """Find each arm's best learning rate on held-out images.

    Args:
        runs: see `run_table`.

    Returns:
        Rates by problem, arm and epochs. An arm whose best rate is the lowest or the
        highest of those tried is left out: `trainact sweep --tuned` goes on with more.
    """
    rates: dict[Any, float] = {}
    for arm, group in _tried(runs).groupby(_ARM):
        scores = dict(zip(group.lr, group.score, strict=True))
        best = best_rate(scores)
        if min(scores) < best < max(scores):
            rates[arm] = best
    keys = zip(*rates, strict=True) if rates else ((), (), ())
    index = pd.MultiIndex.from_arrays([*keys], names=_ARM)
    return pd.Series(list(rates.values()), index, dtype=float)


def reading(runs: pd.DataFrame, which: str) -> pd.DataFrame:
    """Choose the runs that are reported: fresh seeds, on test images.

    Args:
        runs: see `run_table`.
        which: `OWN`; or `VANILLAS`, the paper's: the rate that is best for vanilla
            training of as many epochs; or `GIVEN`, where none was chosen. `HELD_OUT`:
            the runs that chose the rates instead, which are not to be reported as a
            result.

    Returns:
        The rows at those rates.
    """
    if which == HELD_OUT:
        rows = _tried(runs)
    else:
        rows = runs.loc[(runs.evaluated == "test") & (runs.seed != TUNING_SEED)]
    if which == GIVEN:
        return rows
    arms = [BASELINE] * len(rows) if which == VANILLAS else rows.arm
    keys = [rows.problem, arms, rows.epochs]
    wanted = chosen_rates(runs).reindex(pd.MultiIndex.from_arrays(keys))
    return rows.loc[rows.lr.to_numpy() == wanted.to_numpy()]


def _tried(runs: pd.DataFrame) -> pd.DataFrame:
    return runs.loc[(runs.evaluated == "held-out") & (runs.seed == TUNING_SEED)]


def differences(
    rows: pd.DataFrame, multiples: Sequence[int] = (1, 2, 4)
) -> pd.DataFrame:
    """Compare every arm with vanilla training of as many epochs and of more.

    Args:
        rows: see `reading`.
        multiples: vanilla's epochs over the arm's.

    Returns:
        A row for each problem, arm and pair of lengths: ``n`` seeds, the mean of the
        paired differences, the ends of its 95 % interval by Student's t, p, and p after
        Holm's correction over all rows. With one seed the last four are NaN.
    """
    by_seed = rows.pivot(index="seed", columns=_ARM, values="accuracy")
    found: list[dict[str, Any]] = []
    for problem, arm, epochs in by_seed:
        for other in (epochs * multiple for multiple in multiples):
            against = problem, BASELINE, other
            if arm != BASELINE and against in by_seed:
                pairs = (by_seed[problem, arm, epochs] - by_seed[against]).dropna()
                lengths = {"epochs": epochs, "vanilla_epochs": other}
                row = {"problem": problem, "arm": arm, **lengths, "n": len(pairs)}
                found.append({**row, **_interval(pairs.to_numpy())})
    table = pd.DataFrame(found)
    return table.assign(p_holm=holm(table.p)) if found else table


def _interval(pairs: NDArray[np.float64]) -> dict[str, float]:
    mean, n = float(pairs.mean()), len(pairs)
    if n < 2:
        return {"mean": mean, "low": math.nan, "high": math.nan, "p": math.nan}
    error = pairs.std(ddof=1) / math.sqrt(n)
    half = stats.t.ppf(0.975, n - 1) * error
    with np.errstate(divide="ignore", invalid="ignore"):  # all pairs may be equal
        p = 2 * stats.t.sf(np.abs(np.divide(mean, error)), n - 1)
    return {"mean": mean, "low": mean - half, "high": mean + half, "p": float(p)}


def holm(p: Sequence[float]) -> NDArray[np.float64]:
    """Correct p-values for their number, as Holm does.

    The k-th smallest of m, counted from 0, is multiplied by m - k; none becomes smaller
    than one before it, or larger than 1.

    Args:
        p: uncorrected; NaN where there is none.

    Returns:
        Corrected, in the same order.
    """
    values = np.asarray(p, dtype=float)
    order = np.argsort(values)[: np.isfinite(values).sum()]  # NaN comes last
    corrected = np.full_like(values, math.nan)
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.maximum.accumulate(values[order] * factors).clip(max=1)
    return corrected


def speed_up(
    rows: pd.DataFrame, arm: str, epochs: int, by: str = "epochs", draws: int = 10_000
) -> dict[str, float]:
    """Divide the budget at which vanilla training is as accurate by the arm's own.

    Vanilla's accuracy between complete trainings is interpolated in the logarithm of
    the budget. The interval is the middle 95 % over draws of seeds with replacement.

    Args:
        rows: of one problem, see `reading`.
        arm: that is compared.
        epochs: of its training.
        by: ``epochs``, or ``seconds`` of training: epochs times what one of them takes,
            the median over the arm's runs.
        draws: of seeds.

    Returns:
        ``ratio``, ``low``, ``high``, and ``n`` seeds. Infinite where vanilla's longest
        training is less accurate, 0 where its shortest is more; the ends are NaN for
        one seed. Only seeds of which no length is missing count.
    """
    kept = rows[(rows.arm == BASELINE) | ((rows.arm == arm) & (rows.epochs == epochs))]
    by_seed = kept.pivot(index="seed", columns=_TRAINING, values="accuracy").dropna()
    pace: Any = (kept.seconds / kept.epochs).groupby(kept.arm).median()
    spent = epochs if by == "epochs" else epochs * pace[arm] / pace[BASELINE]
    curves = by_seed[BASELINE].sort_index(axis=1)
    own = by_seed[arm, epochs].to_numpy()

    def ratio(seeds: Any) -> float:
        reached = np.maximum.accumulate(curves.to_numpy()[seeds].mean(0))
        return _interpolate(own[seeds].mean(), reached, [*curves]) / spent

    n = len(by_seed)
    low = high = math.nan
    if n > 1:
        chosen = np.random.default_rng(0).integers(0, n, (draws, n))
        ratios = [ratio(seeds) for seeds in chosen]
        # Without interpolation, which has no meaning beside an infinite ratio.
        low, high = np.quantile(ratios, [0.025, 0.975], method="inverted_cdf")
    whole = ratio(slice(None)) if n else math.nan
    return {"ratio": whole, "low": low, "high": high, "n": n}


def _interpolate(
    accuracy: float, reached: NDArray[np.float64], budgets: Sequence[int]
) -> float:
    if accuracy < reached[0]:
        return 0.0
    if accuracy > reached[-1]:
        return math.inf
    return math.exp(np.interp(accuracy, reached, np.log(budgets)))
