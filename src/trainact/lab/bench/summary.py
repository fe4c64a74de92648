"""From the seconds of a record to quantiles, ratios and differences."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from trainact.lab.bench.arms import BASELINE
from trainact.lab.bench.records import ArmResult, BenchRecord

DRAWS = 2000


@dataclass(frozen=True)
class Spread:
    """Quantiles over rounds, and a 95 % bootstrap interval of the median.

    Attributes:
        p20: a fifth of the rounds are below.
        p50: the median.
        p80: a fifth of the rounds are above.
        low: of the interval.
        high: of the interval.
    """

    p20: float
    p50: float
    p80: float
    low: float
    high: float


@dataclass(frozen=True)
class ArmSummary:
    """One arm of a record in figures; None where it has none.

    Attributes:
        arm: its name.
        problem: why figures are missing.
        error: of its weight gradient.
        step_ms: of a whole step.
        ratio: of its step to vanilla's in the same round.
        layer_ms: of the first layer's forward and backward.
        extra_ms: of the layer, beyond vanilla's in the same round.
        share: median extra of the layer over the median of vanilla's step.
        floor: median extra of the layer over the floor of that work.
        step_bytes: peak of a step.
        step_growth: beyond vanilla's peak, in bytes.
        layer_growth: likewise of the layer alone.
        launches: of the layer alone.
    """

    arm: str
    problem: str | None
    error: float | None
    step_ms: Spread | None
    ratio: Spread | None
    layer_ms: Spread | None
    extra_ms: Spread | None
    share: float | None
    floor: float | None
    step_bytes: int | None
    step_growth: int | None
    layer_growth: int | None
    launches: int | None


def summarise(record: BenchRecord) -> list[ArmSummary]:
    """Summarise every arm of a record.

    Args:
        record: one case in one mode.

    Returns:
        The arms in the record's order.
    """
    vanilla = next(arm for arm in record.arms if arm.arm == BASELINE)
    return [_summarise_arm(arm, vanilla, record) for arm in record.arms]


def _summarise_arm(
    arm: ArmResult, vanilla: ArmResult, record: BenchRecord
) -> ArmSummary:
    extra_ms = None
    if arm is not vanilla:
        pairs = _pairs(arm.layer_s, vanilla.layer_s)
        extra_ms = spread([1e3 * (own - base) for own, base in pairs])
    step_s = statistics.median(vanilla.step_s) if vanilla.step_s else None
    return ArmSummary(
        arm=arm.arm,
        problem=arm.problem,
        error=arm.error,
        step_ms=spread([1e3 * seconds for seconds in arm.step_s]),
        ratio=spread([own / base for own, base in _pairs(arm.step_s, vanilla.step_s)]),
        layer_ms=spread([1e3 * seconds for seconds in arm.layer_s]),
        extra_ms=extra_ms,
        share=extra_ms.p50 / (1e3 * step_s) if extra_ms and step_s else None,
        floor=extra_ms.p50 / (1e3 * record.floor.seconds) if extra_ms else None,
        step_bytes=arm.step_bytes,
        step_growth=_difference(arm.step_bytes, vanilla.step_bytes),
        layer_growth=_difference(arm.layer_bytes, vanilla.layer_bytes),
        launches=arm.launches,
    )


def _pairs(own: Sequence[float], base: Sequence[float]) -> list[tuple[float, float]]:
    """Round by round; nothing where either arm was not measured."""
    return list(zip(own, base, strict=True)) if own and base else []


def _difference(own: int | None, base: int | None) -> int | None:
    return None if own is None or base is None else own - base


def spread(values: Sequence[float]) -> Spread | None:
    """Describe values that were measured in rounds.

    Args:
        values: one per round.

    Returns:
        Their spread, or None for fewer than two.
    """
    if len(values) < 2:
        return None
    fifths = statistics.quantiles(values, n=5, method="inclusive")
    low, high = bootstrap(values)
    return Spread(fifths[0], statistics.median(values), fifths[3], low, high)


def bootstrap(values: Sequence[float]) -> tuple[float, float]:
    """Find the 95 % interval of the median by drawing rounds with replacement.

    Args:
        values: one per round.

    Returns:
        (low, high).
    """
    rng = random.Random(0)
    medians = sorted(
        statistics.median(rng.choices(values, k=len(values))) for _ in range(DRAWS)
    )
    return medians[DRAWS // 40], medians[-DRAWS // 40]


def exponent(sizes: Sequence[float], times: Sequence[float]) -> float | None:
    """Fit time = constant x size ** exponent.

    Args:
        sizes: along one axis.
        times: measured there; points that are not positive are left out.

    Returns:
        The exponent, or None with fewer than two points.
    """
    points = [
        (math.log(size), math.log(time))
        for size, time in zip(sizes, times, strict=True)
        if time > 0
    ]
    if len(points) < 2:
        return None
    return statistics.linear_regression(*zip(*points, strict=True)).slope
