"""Accuracy over epochs: one panel per model, a line and a band per method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainact.lab.report import BASELINE, Arm

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_COLUMNS = 3
_PANEL_INCHES = (5.0, 3.8)
_BASELINE_COLOUR = "0.35"
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
    figure = Figure((width * num_columns, height * num_rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(num_rows, num_columns, squeeze=False).flatten()
    for panel in panels[len(report) :]:
        panel.set_visible(False)
    for panel, arms, heading in zip(panels, report.values(), titles, strict=False):
        _draw(panel, arms, heading)
    figure.savefig(path, dpi=150)


def _draw(panel: Axes, arms: Sequence[Arm], heading: str) -> None:
    colours = iter(_COLOURS * (1 + len(arms) // len(_COLOURS)))
    for arm in arms:
        is_baseline = arm.label == BASELINE
        colour = _BASELINE_COLOUR if is_baseline else next(colours)
        epochs = range(1, len(arm.mean_curve) + 1)
        panel.plot(
            epochs,
            arm.mean_curve,
            color=colour,
            label=_legend(arm),
            marker="o",
            markersize=3,
        )
        if arm.std_curve is not None:
            low, high = zip(
                *(
                    (mean - std, mean + std)
                    for mean, std in zip(arm.mean_curve, arm.std_curve, strict=True)
                ),
                strict=True,
            )
            panel.fill_between(epochs, low, high, color=colour, alpha=0.18, linewidth=0)
        if is_baseline:
            panel.axhline(arm.final_mean, color=colour, linestyle=":", linewidth=1)
    panel.set_title(heading.replace(": ", "\n", 1), fontsize=10)
    panel.set_xlabel("epoch")
    panel.set_ylabel("test accuracy (mean ± std)")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.grid(alpha=0.3)
    panel.legend(loc="lower right", fontsize=9)


def _legend(arm: Arm) -> str:
    seeds = f"{len(arm.seeds)} seed{'s' if len(arm.seeds) != 1 else ''}"
    return f"{arm.label}: {arm.final_mean:.4f} ({seeds})"
