r"""Final accuracies of an experiment's arms: means, gains, the paper's, paired tests.

Accuracies are in per cent, as in the paper. With :math:`a_s` an arm's accuracy after
the last epoch for seed s and :math:`v_s` vanilla's, the test is Student's paired one on
:math:`d_s = a_s - v_s`, two-sided, over the seeds that both have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from trainact.lab.recipe import Expected
from trainact.lab.records import Record
from trainact.lab.reporting.grouping import View
from trainact.lab.summary import BASELINE, by_arm, curves, mean_and_std

Metric = Literal["accuracy", "top5"]
Spread = tuple[float, float | None]
# Records hold accuracies to 0.0001 per cent. Differences closer than this are equal but
# for that, and have no spread to test; one of 50,000 images is 0.002 per cent.
_SAME = 3e-4


@dataclass(frozen=True)
class PairedTest:
    """A paired t-test, two-sided.

    Attributes:
        num_pairs: that went into it.
        t: statistic, above 0 where the first is higher; None with fewer than two pairs
            and where all differences are equal.
        p: probability of such a t, or one farther from 0, without an effect; None
            likewise.
    """

    num_pairs: int
    t: float | None = None
    p: float | None = None


def paired_test(first: Sequence[float], second: Sequence[float]) -> PairedTest:
    """Test whether two things differ, from measurements in pairs.

    Args:
        first: one value per pair, in per cent.
        second: the value it is compared with.

    Returns:
        The test.
    """
    differences = [a - b for a, b in zip(first, second, strict=True)]
    if len(differences) < 2 or max(differences) - min(differences) < _SAME:
        return PairedTest(len(differences))
    result = stats.ttest_rel(first, second)
    return PairedTest(len(differences), float(result.statistic), float(result.pvalue))


@dataclass(frozen=True)
class Score:
    """Accuracy of one arm over its seeds, in per cent.

    Attributes:
        mean: after the last epoch.
        std: over seeds, with Bessel's correction; None with one seed.
        gain: `mean` minus vanilla's; None for vanilla, and without it.
        test: against vanilla; None likewise.
        paper: the paper's mean and std, None where it prints none.
        over_paper: `mean` minus the paper's; None too where the setting is not the
            recipe's own.
        mean_curve: after every epoch.
        std_curve: of the same; None with one seed.
    """

    mean: float
    std: float | None
    gain: float | None
    test: PairedTest | None
    paper: Spread | None
    over_paper: float | None
    mean_curve: tuple[float, ...]
    std_curve: tuple[float, ...] | None


@dataclass(frozen=True)
class _Measured:
    """The runs of one arm, in per cent.

    Attributes:
        curves: one per run.
        finals: seed and device -> last value.
    """

    curves: list[tuple[float, ...]]
    finals: dict[tuple[int, str], float]


def scores(view: View, metric: Metric) -> dict[str, Score]:
    """Work out the accuracy of every arm in which it was measured.

    Args:
        view: an experiment.
        metric: top-1 or top-5.

    Returns:
        Name of the arm -> its score.
    """
    runs = by_arm(r for r in view.records if getattr(r, metric) is not None)
    measured = {label: _measure(own, metric) for label, own in runs.items()}
    baseline = measured.get(BASELINE)
    arms = view.recipe.arms if view.recipe else ()
    expected = {arm.name: arm.expected for arm in arms}
    return {
        label: _score(
            own,
            baseline if label != BASELINE else None,
            printed(expected.get(label), metric),
            view.is_own,
        )
        for label, own in measured.items()
    }


def _measure(runs: Sequence[Record], metric: Metric) -> _Measured:
    percents = [tuple(100 * value for value in curve) for curve in curves(runs, metric)]
    pairs = [(run.config.seed, run.config.device) for run in runs]
    finals = {pair: curve[-1] for pair, curve in zip(pairs, percents, strict=True)}
    return _Measured(percents, finals)


def _score(
    own: _Measured,
    baseline: _Measured | None,
    paper: Spread | None,
    is_own_setting: bool,
) -> Score:
    mean_curve, std_curve = mean_and_std(own.curves)
    mean = mean_curve[-1]
    gain, test = None, None
    if baseline is not None:
        gain = mean - mean_and_std(baseline.curves)[0][-1]
        test = _test_over_seeds(own.finals, baseline.finals)
    return Score(
        mean=mean,
        std=None if std_curve is None else std_curve[-1],
        gain=gain,
        test=test,
        paper=paper,
        over_paper=mean - paper[0] if paper and is_own_setting else None,
        mean_curve=mean_curve,
        std_curve=std_curve,
    )


def _test_over_seeds(
    own: Mapping[tuple[int, str], float], baseline: Mapping[tuple[int, str], float]
) -> PairedTest:
    common = [pair for pair in own if pair in baseline]
    return paired_test([own[p] for p in common], [baseline[p] for p in common])


def printed(expected: Expected | None, metric: Metric) -> Spread | None:
    """Look up what the paper prints of an arm.

    Args:
        expected: the paper's numbers, where it prints any.
        metric: top-1 or top-5.

    Returns:
        Mean and std, or None.
    """
    if expected is None:
        return None
    if metric == "accuracy":
        return expected.top1, expected.top1_std
    return None if expected.top5 is None else (expected.top5, expected.top5_std)
