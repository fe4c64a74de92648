"""Accuracy over epochs: one panel per model, a line and a band per method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainact.lab.summary import BASELINE, Arm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.legend import Legend

BASELINE_COLOUR = "0.35"
_MAX_COLUMNS = 3
_PANEL_INCHES = (5.0, 3.8)
_COLOURS = ("tab:red", "tab:blue", "tab:orange", "tab:green", "tab:purple", "tab:brown")


def save_curves(
    report: dict[str, list[Arm]], titles: Sequence[str], path: Path
) -> None:
    """Draw the mean accuracy of every arm with a band of one std.

    Args:
        report: arms per model.
        titles: one per model.
        path: of the PNG.
    """
    num_columns = min(len(report), _MAX_COLUMNS)
    num_rows = -(-len(report) // num_columns)
    width, height = _PANEL_INCHES
    figure = new_figure(width * num_columns, height * num_rows)
    panels = figure.subplots(num_rows, num_columns, squeeze=False).flatten()
    for panel in panels[len(report) :]:
        panel.set_visible(False)
    for panel, arms, heading in zip(panels, report.values(), titles, strict=False):
        _draw(panel, arms, heading)
    figure.savefig(path, dpi=150)


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure that needs no display.

    Args:
        width: in inches.
        height: in inches.

    Returns:
        The figure.
    """
    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_curve(
    panel: Axes,
    xs: Sequence[float],
    mean: Sequence[float],
    std: Sequence[float] | None,
    **line: Any,
) -> None:
    """Draw a mean with a band of one std.

    Args:
        panel: where.
        xs: one per value.
        mean: over seeds.
        std: over seeds, or None with one seed.
        **line: of the line, as `Axes.plot` takes it; with a ``color``.
    """
    panel.plot(xs, mean, **line)
    if std is not None:
        pairs = list(zip(mean, std, strict=True))
        low, high = [m - s for m, s in pairs], [m + s for m, s in pairs]
        panel.fill_between(xs, low, high, color=line["color"], alpha=0.18, linewidth=0)


def take_literally(legend: Legend) -> None:
    """Show names as they are, where matplotlib would read ``$`` as mathematics.

    Args:
        legend: to be changed.
    """
    for text in legend.get_texts():
        text.set_parse_math(False)


def _draw(panel: Axes, arms: Sequence[Arm], heading: str) -> None:
    colours = iter(_COLOURS * (1 + len(arms) // len(_COLOURS)))
    for arm in arms:
        is_baseline = arm.label == BASELINE
        colour = BASELINE_COLOUR if is_baseline else next(colours)
        draw_curve(
            panel,
            range(1, len(arm.mean_curve) + 1),
            arm.mean_curve,
            arm.std_curve,
            color=colour,
            label=_legend(arm),
            marker="o",
            markersize=3,
        )
        if is_baseline:
            panel.axhline(arm.final_mean, color=colour, linestyle=":", linewidth=1)
    panel.set_title(heading.replace(": ", "\n", 1), fontsize=10, parse_math=False)
    panel.set_xlabel("epoch")
    panel.set_ylabel("test accuracy (mean ± std)")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.grid(alpha=0.3)
    take_literally(panel.legend(loc="lower right", fontsize=9))


def _legend(arm: Arm) -> str:
    seeds = f"{len(arm.seeds)} seed{'s' if len(arm.seeds) != 1 else ''}"
    return f"{arm.label}: {arm.final_mean:.4f} ({seeds})"
