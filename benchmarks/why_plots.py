"""The pictures of `docs/why-it-works.md`, from the records of `benchmarks.why`.

python -m benchmarks.why_plots
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.sections import ROOT, load
from benchmarks.why_tables import INPUTS, LAYERS, MEASURES, RECORDS, arm_name
from trainact.lab.plots import BASELINE_COLOUR, draw_curve, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOCS = ROOT / "docs"
DPI = 75
FILTERS_SHOWN = 24  # so that the picture stays below 100 kB
COLOURS = {"plain": BASELINE_COLOUR, "tract": "tab:red", "best": "tab:blue"}
LABELS = {"plain": "vanilla", "tract": "TrAct", "best": "best possible"}
FILTER_COLOURS = (BASELINE_COLOUR, "tab:blue", "tab:red")
Records = Sequence[dict[str, Any]]
Array = NDArray[Any]


def draw_proposal(records: Records) -> Figure:
    """Fig. 1 live: for each layer, against what is asked and what can be had."""
    shown = [record for record in records if "points" in record]
    figure = new_figure(2.6 * len(shown), 5.4)
    panels = figure.subplots(2, len(shown), squeeze=False)
    for column, record in enumerate(shown):
        is_text = record["layer"].startswith("words")
        for panel, aim in zip(panels[:, column], ("asked", "best"), strict=True):
            points = record["points"][aim]
            ways = ["plain"] if is_text else ["plain", "tract"]
            for way in [*ways, *(["best"] if aim == "asked" and not is_text else [])]:
                dots = {"s": 5, "alpha": 0.6, "linewidths": 0}
                xs, ys = points["length"], points[way]
                panel.scatter(xs, ys, color=COLOURS[way], label=LABELS[way], **dots)
            end = max(points["length"])
            panel.plot((0, end), (0, end), color="0.6", linewidth=1, linestyle=":")
            panel.axhline(0, color="0.8", linewidth=0.8, zorder=0)
            panel.set_xlabel("asked" if aim == "asked" else "best possible")
        rows, entries = record["rows"], record["entries"]
        title = f"{LAYERS[record['layer']]}\n{rows:,} rows of {entries:,}"
        panels[0, column].set_title(title, fontsize=9)
    panels[0, 0].set_ylabel("obtained, along asked")
    panels[1, 0].set_ylabel("obtained, along best")
    panels[0, -1].legend(fontsize=8, markerscale=3)
    return figure


def draw_shares(records: Records) -> Figure:
    """Share of each tenth of the images, by brightness and by contrast."""
    last = max(record["epochs"] for record in records)
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        if record["epochs"] == last:
            groups[record["layer"], record["input"]].append(record)
    figure = new_figure(3.1 * len(groups), 5.2)
    panels = figure.subplots(2, len(groups), squeeze=False, sharey=True)
    for column, ((layer, normalise), members) in enumerate(groups.items()):
        for panel, by in zip(
            panels[:, column], ("brightness", "contrast"), strict=True
        ):
            some = [m["deciles"] for m in members if m["by"] == by]
            for way in ("plain", "tract"):
                _draw_deciles(panel, some, way, linestyle="-", label=LABELS[way])
                alone = f"{LABELS[way]}, gradients of equal norm"
                _draw_deciles(panel, some, f"{way} alone", linestyle="--", label=alone)
            panel.axhline(1, color="0.8", linewidth=0.8, zorder=0)
            panel.set_xlabel(f"tenth of the images by {by}")
        panels[0, column].set_title(f"{LAYERS[layer]}\n{INPUTS[normalise]}", fontsize=9)
    for panel in panels[:, 0]:
        panel.set_ylabel("share, 1 = equal")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=8)
    return figure


def _draw_deciles(panel: Axes, some: Records, series: str, **line: Any) -> None:
    columns = [[len(of) * s for s in of] for of in (one[series] for one in some)]
    means = [statistics.mean(values) for values in zip(*columns, strict=True)]
    stds = [statistics.stdev(values) for values in zip(*columns, strict=True)]
    line |= {"color": COLOURS[series.partition(" ")[0]], "linewidth": 1.2}
    draw_curve(panel, range(1, len(means) + 1), means, stds, **line)


def draw_spectrum(records: Records) -> Figure:
    """Eigenvalues of A, and the eigenvectors of the smallest patches as pictures."""
    figure = new_figure(11.5, 4.8)
    parts: Any = figure.subfigures(1, 2, width_ratios=(1, 1.25))
    left, right = parts
    panel = left.subplots()
    for record in records:
        values = record["eigenvalues"]
        size = f"{record['kernel']}x{record['kernel']}"
        label = f"{record['data']}, {size}, {INPUTS[record['input']]}"
        panel.loglog(range(1, len(values) + 1), values, label=label, linewidth=1.2)
    panel.axhline(0.1, color="0.6", linewidth=1, linestyle=":")
    panel.text(1, 0.09, "λ = 0.1", fontsize=8, color="0.4", va="top")
    panel.set_xlabel("direction, by its eigenvalue")
    panel.set_ylabel("eigenvalue of A")
    panel.grid(alpha=0.3)
    left.legend(loc="outside lower center", ncols=2, fontsize=7)
    first = next(record for record in records if "vectors" in record)
    side = first["kernel"]
    for panel, vector, value in zip(
        right.subplots(3, 9).flat, first["vectors"], first["eigenvalues"], strict=True
    ):
        panel.imshow(as_picture(np.array(vector).reshape(-1, side, side)))
        panel.set_title(f"{value:.2g}", fontsize=7, pad=2)
        panel.set_axis_off()
    right.suptitle("eigenvectors and their eigenvalues", fontsize=9)
    return figure


def as_picture(filter_CHW: Array) -> Array:
    """Zero is grey; the largest entry has full colour."""
    picture = 0.5 + filter_CHW / (2 * np.abs(filter_CHW).max())
    return picture.transpose(1, 2, 0)


def draw_filters(records: Records) -> Figure:
    """Filters before and after, where the change lies, and accuracy."""
    shown = [record for record in records if "final" in record]
    initial = np.array(shown[0]["initial"])
    side = int((initial.shape[1] // 3) ** 0.5)
    figure = new_figure(2.6 * (1 + len(shown)), 6)
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.4, 1))
    above, below = parts
    panels = above.subplots(2, 1 + len(shown))
    for panel in panels.flat:
        panel.set_axis_off()
    _draw_filters(panels[0, 0], initial, side, "at first")
    for column, record in enumerate(shown, 1):
        final, title = np.array(record["final"]), arm_name(record)
        _draw_filters(panels[0, column], final, side, title)
        _draw_filters(panels[1, column], final - initial, side, f"{title}: change")
    energy, accuracy = below.subplots(1, 2)
    arms: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        arms[arm_name(record)].append(record)
    for colour, (arm, members) in zip(FILTER_COLOURS, arms.items(), strict=True):
        for panel, series in ((energy, "energy"), (accuracy, "accuracy")):
            curves = np.array([member[series] for member in members])
            curves = curves.cumsum(1) if series == "energy" else curves
            xs = range(1, curves.shape[1] + 1)
            mean, std = curves.mean(0).tolist(), curves.std(0, ddof=1).tolist()
            draw_curve(panel, xs, mean, std, color=colour, label=arm)
    energy.axvline(records[0]["above_lam"], color="0.6", linewidth=1, linestyle=":")
    energy.text(records[0]["above_lam"], 0.02, " μ = λ", fontsize=8, color="0.4")
    energy.set_xscale("log")
    energy.set_xlabel("directions of largest eigenvalue")
    energy.set_ylabel("share of the filters' change in them")
    accuracy.set_xlabel("epoch")
    accuracy.set_ylabel("test accuracy (mean ± std)")
    accuracy.set_xticks(range(1, len(shown[0]["accuracy"]) + 1))
    for panel in (energy, accuracy):
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    return figure


def _draw_filters(panel: Axes, weights: Array, side: int, title: str) -> None:
    sheet = tiles(weights[:FILTERS_SHOWN].reshape(FILTERS_SHOWN, -1, side, side))
    panel.imshow(sheet, interpolation="nearest")
    panel.set_title(title, fontsize=9)


def tiles(filters_NCHW: Array, columns: int = 8) -> Array:
    """Filters side by side on white, each in colours of its own."""
    side = filters_NCHW.shape[-1] + 1
    rows = -(-len(filters_NCHW) // columns)
    sheet = np.ones((rows * side - 1, columns * side - 1, 3))
    for place, one in enumerate(filters_NCHW):
        top, left = side * (place // columns), side * (place % columns)
        sheet[top : top + side - 1, left : left + side - 1] = as_picture(one)
    return sheet


DRAW: dict[str, Callable[[Records], Figure]] = {
    "proposal": draw_proposal,
    "shares": draw_shares,
    "spectrum": draw_spectrum,
    "filters": draw_filters,
}


def save_pictures(records: Records) -> None:
    """Draw all pictures of the page."""
    for measure in MEASURES:
        some = [record for record in records if record["measure"] == measure]
        path = DOCS / f"why-{measure}.png"
        DRAW[measure](some).savefig(path, dpi=DPI, pil_kwargs={"optimize": True})


def main() -> None:
    from benchmarks.readme import WHY, why_page  # which draws with this module

    save_pictures(load(RECORDS))
    WHY.write_text(why_page())


if __name__ == "__main__":
    main()
