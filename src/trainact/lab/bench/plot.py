"""One picture of a file of records: whole steps, the layer's extra time, scaling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from trainact.lab.bench.arms import BASELINE
from trainact.lab.bench.options import ARM_NAMES
from trainact.lab.bench.records import BenchRecord
from trainact.lab.bench.scaling import AXES
from trainact.lab.bench.summary import ArmSummary, Spread, summarise
from trainact.lab.bench.tables import scaling_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS: dict[str, str] = dict(
    zip(
        ARM_NAMES,
        (
            "0.35",
            "0.6",
            "tab:red",
            "tab:blue",
            "tab:orange",
            "tab:green",
            "tab:purple",
        ),
        strict=True,
    )
)
_INCHES = (12.0, 9.0)


def save_plot(records: Sequence[BenchRecord], path: Path) -> None:
    """Draw the records of one device.

    Args:
        records: the latest of each case and mode.
        path: of the PNG.
    """
    figure = Figure(_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 4, height_ratios=(1.6, 1))
    steps, layers = figure.add_subplot(grid[0, :2]), figure.add_subplot(grid[0, 2:])
    cases = [record for record in records if record.axis is None]
    _draw_cases(steps, cases, lambda arm: arm.ratio)
    steps.set_xlabel("whole step, ratio to vanilla")
    steps.axvline(1.0, color=_COLOURS[BASELINE], linewidth=1)
    _draw_cases(layers, cases, lambda arm: arm.extra_ms)
    layers.set_xlabel("the first layer's extra time (ms)")
    layers.set_xscale("symlog", linthresh=0.1)
    for column, axis in enumerate(AXES):
        _draw_curves(figure.add_subplot(grid[1, column]), records, axis)
    handles = [
        steps.plot([], [], "o", color=colour, label=arm)[0]
        for arm, colour in _COLOURS.items()
        if arm != BASELINE
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    figure.savefig(path, dpi=130)


def _draw_cases(
    panel: Axes,
    records: Sequence[BenchRecord],
    value_of: Callable[[ArmSummary], Spread | None],
) -> None:
    """Median and its interval; a row for each record, arms below each other."""
    labels: list[str] = []
    for record in records:
        shown = [
            (arm.arm, spread)
            for arm in summarise(record)
            if arm.arm != BASELINE and (spread := value_of(arm))
        ]
        if not shown:
            continue
        for arm, spread in shown:
            offset = 0.11 * (ARM_NAMES.index(arm) - len(ARM_NAMES) / 2)
            panel.errorbar(
                spread.p50,
                len(labels) + offset,
                xerr=[[spread.p50 - spread.low], [spread.high - spread.p50]],
                fmt="o",
                markersize=4,
                color=_COLOURS[arm],
            )
        mode = "" if record.mode.name == "eager-fp32" else f"\n{record.mode.name}"
        labels.append(record.name + mode)
    panel.set_yticks(range(len(labels)), labels, fontsize=8)
    panel.invert_yaxis()
    panel.grid(alpha=0.3)


def _draw_curves(panel: Axes, records: Sequence[BenchRecord], axis: str) -> None:
    for arm, points in scaling_curves(records, axis).items():
        above = [(value, extra.p50) for value, extra in points if extra.p50 > 0]
        if above and not arm.startswith(BASELINE):
            panel.loglog(*zip(*above, strict=True), "o-", color=_COLOURS[arm], ms=3)
            values = [value for value, _ in above]
            panel.set_xticks(values, [str(value) for value in values], fontsize=8)
    panel.minorticks_off()
    panel.set_xlabel(axis)
    panel.set_ylabel("extra ms")
    panel.grid(alpha=0.3)
