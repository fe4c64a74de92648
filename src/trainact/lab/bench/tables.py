"""Records as tables: one of whole steps, one of the layer alone, one of scaling."""

from __future__ import annotations

from collections.abc import Sequence

from trainact.lab.bench.arms import BASELINE
from trainact.lab.bench.records import SKIPPED, WRONG, BenchRecord
from trainact.lab.bench.scaling import AXES
from trainact.lab.bench.summary import ArmSummary, Spread, exponent, summarise
from trainact.lab.table_text import Rows

STEP_COLUMNS = (
    "case",
    "mode",
    "arm",
    "ratio to vanilla",
    "p20 to p80",
    "ms",
    "peak MB",
    "over vanilla",
)
LAYER_COLUMNS = (
    "case",
    "mode",
    "arm",
    "ms",
    "extra ms",
    "of the step",
    "x floor",
    "extra MB",
    "launches",
    "error",
)
BRIEF_COLUMNS = (
    "case",
    "arm",
    "whole step, ratio to vanilla",
    "the layer's extra ms",
    "of the step",
    "its extra MB",
)
SCALING_COLUMNS = ("axis", "arm", "extra ms at each point", "exponent")
NONE = "-"


def step_rows(records: Sequence[BenchRecord]) -> Rows:
    """Write the rows of whole training steps.

    Args:
        records: of cases; those without steps are left out.

    Returns:
        One text per column of `STEP_COLUMNS`.
    """
    rows: Rows = []
    for record in records:
        summaries = summarise(record)
        if any(arm.step_ms for arm in summaries):
            rows += [(*_labels(record, arm), *_step_cells(arm)) for arm in summaries]
    return rows


def _labels(record: BenchRecord, arm: ArmSummary) -> tuple[str, ...]:
    return record.name, record.mode.name, arm.arm


def _step_cells(arm: ArmSummary) -> tuple[str, ...]:
    if arm.step_ms is None:
        return (_outcome(arm), *(NONE,) * 4)
    spread = arm.ratio if arm.arm != BASELINE else None
    return (
        _with_interval(spread, 3),
        NONE if spread is None else f"{spread.p20:.3f} to {spread.p80:.3f}",
        f"{arm.step_ms.p50:.4g}",
        _megabytes(arm.step_bytes),
        _megabytes(arm.step_growth) if arm.arm != BASELINE else NONE,
    )


def layer_rows(records: Sequence[BenchRecord]) -> Rows:
    """Write the rows of the layer alone.

    Args:
        records: of cases.

    Returns:
        One text per column of `LAYER_COLUMNS`.
    """
    return [
        (*_labels(record, arm), *_layer_cells(arm))
        for record in records
        for arm in summarise(record)
    ]


def _layer_cells(arm: ArmSummary) -> tuple[str, ...]:
    error = NONE if arm.error is None else f"{arm.error:.1e}"
    if arm.layer_ms is None:
        return (_outcome(arm), *(NONE,) * 5, error)
    is_other = arm.arm != BASELINE
    return (
        f"{arm.layer_ms.p50:.3g}",
        _with_interval(arm.extra_ms, 2),
        NONE if arm.share is None else f"{100 * arm.share:.2f} %",
        NONE if arm.floor is None else f"{arm.floor:.1f}",
        _megabytes(arm.layer_growth) if is_other else NONE,
        NONE if arm.launches is None else str(arm.launches),
        error,
    )


def _outcome(arm: ArmSummary) -> str:
    """What stands in place of a figure; the rest is in the notes."""
    problem = arm.problem or NONE
    if problem.startswith(WRONG) or problem == NONE:
        return problem
    return SKIPPED if problem.startswith(SKIPPED) else "failed"


def brief_rows(records: Sequence[BenchRecord]) -> Rows:
    """Write what a reader wants to know first, of cases with whole steps.

    Args:
        records: of cases, all in the same mode.

    Returns:
        One text per column of `BRIEF_COLUMNS`.
    """
    rows: Rows = []
    for record in records:
        for arm in summarise(record):
            if arm.arm != BASELINE and any(one.step_s for one in record.arms):
                ratio = _outcome(arm) if arm.step_ms is None else _step_cells(arm)[0]
                extra, share, _, megabytes = _layer_cells(arm)[1:5]
                rows.append((record.name, arm.arm, ratio, extra, share, megabytes))
    return rows


def notes(records: Sequence[BenchRecord]) -> list[str]:
    """Say why figures are missing.

    Args:
        records: of cases.

    Returns:
        A line for each arm that has not all of them.
    """
    return [
        f"{record.name}, {record.mode.name}, {arm.arm}: {arm.problem}"
        for record in records
        for arm in record.arms
        if arm.problem
    ]


def scaling_rows(records: Sequence[BenchRecord]) -> Rows:
    """Write the curves of the layer's extra time.

    Args:
        records: of all kinds.

    Returns:
        One text per column of `SCALING_COLUMNS`.
    """
    rows: Rows = []
    for axis in AXES:
        for arm, points in scaling_curves(records, axis).items():
            texts = [f"{value}: {extra.p50:.3g}" for value, extra in points]
            grows = exponent(
                [value for value, _ in points], [extra.p50 for _, extra in points]
            )
            cell = NONE if grows is None else f"{grows:.2f}"
            rows.append((axis, arm, ", ".join(texts), cell))
    return rows


def scaling_curves(
    records: Sequence[BenchRecord], axis: str
) -> dict[str, list[tuple[int, Spread]]]:
    """Collect the layer's extra time along an axis.

    Args:
        records: of all kinds.
        axis: one of `AXES`.

    Returns:
        Arm -> (where on the axis, extra ms), ascending.
    """
    curves: dict[str, list[tuple[int, Spread]]] = {}
    for record in sorted(records, key=lambda record: record.value):
        if record.axis == axis:
            for arm in summarise(record):
                if arm.extra_ms is not None:
                    points = curves.setdefault(arm.arm, [])
                    points.append((record.value, arm.extra_ms))
    return curves


def _with_interval(spread: Spread | None, digits: int) -> str:
    if spread is None:
        return NONE
    return (
        f"{spread.p50:.{digits}f} [{spread.low:.{digits}f}, {spread.high:.{digits}f}]"
    )


def _megabytes(number: int | None) -> str:
    return NONE if number is None else f"{number / 1e6:,.1f}"
