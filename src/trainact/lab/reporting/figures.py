"""The page's pictures: accuracy against epochs, against λ, against length."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matplotlib.ticker import MaxNLocator, NullLocator

from trainact.lab.plots import draw_curve, new_figure, take_literally
from trainact.lab.reporting.arms import ArmResult
from trainact.lab.reporting.lengths import LengthStudy
from trainact.lab.reporting.scores import Metric, Score, Spread
from trainact.lab.reporting.sections import Section
from trainact.lab.summary import BASELINE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INCHES = (5.4, 4.0)
_DPI = 150
_MOST_MARKERS = 40  # more epochs than this are a line without dots
_LEAST_FOR_TAIL = 10
_LEAST_LAMS = 3
_MAIN_METHOD = "tract"
_LOST = " An arm that lost a run has no std here and may leave the picture."
NAMES: dict[Metric, str] = {"accuracy": "top-1", "top5": "top-5"}


@dataclass(frozen=True)
class Picture:
    """A picture of the page.

    Attributes:
        name: of its file.
        caption: what it shows.
        png: its bytes.
    """

    name: str
    caption: str
    png: bytes


def metric_name(section: Section, metric: Metric = "accuracy") -> str:
    """Name what an experiment's runs are scored by.

    Args:
        section: the experiment.
        metric: which of its scores.

    Returns:
        ``top-1 accuracy``, ``top-5 accuracy`` or ``mAP``.
    """
    name = section.view.experiment.setting.metric
    return name if name == "mAP" else f"{NAMES[metric]} accuracy"


def section_pictures(section: Section, colours: Mapping[str, str]) -> list[Picture]:
    """Draw an experiment.

    Args:
        section: the experiment.
        colours: of its arms.

    Returns:
        Accuracy against epochs, for long runs also the last third alone, and against λ
        for every method with at least three.
    """
    epochs = section.view.experiment.setting.epochs
    last_third = epochs - epochs // 3
    pictures = [_curves_picture(section, colours, "accuracy")]
    if epochs >= _LEAST_FOR_TAIL:
        pictures.append(_curves_picture(section, colours, "accuracy", last_third))
    if any(arm.top5 for arm in section.arms):
        first = last_third if epochs >= _LEAST_FOR_TAIL else 1
        pictures.append(_curves_picture(section, colours, "top5", first))
    methods = dict.fromkeys(arm.method for arm in section.arms if arm.lam is not None)
    for method in methods:
        arms = [arm for arm in section.arms if arm.method == method]
        if len(arms) >= _LEAST_LAMS:
            pictures.append(_lam_picture(section, method, arms, colours))
    return pictures


def _curves_picture(
    section: Section, colours: Mapping[str, str], metric: Metric, first_epoch: int = 1
) -> Picture:
    figure, panel = _start()
    kept: list[Spread] = []
    for arm in section.arms:
        if (score := arm.score(metric)) is not None:
            _draw_score(panel, arm, score, colours[arm.label], first_epoch)
            if not arm.lost:
                kept += _spreads(score, first_epoch)
    panel.set_xlabel("epoch")
    name = metric_name(section, metric)
    panel.set_ylabel(f"{name} (%)")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    part = "" if first_epoch == 1 else f", from epoch {first_epoch}"
    suffix = "" if first_epoch == 1 else "-end"
    return _finish(
        figure,
        panel,
        f"{section.slug}-{NAMES[metric].replace('-', '')}{suffix}.png",
        f"{name[:1].upper()}{name[1:]} on the test images against epochs"
        f"{part}: mean over seeds, band of one std.",
        kept if any(arm.lost for arm in section.arms) else None,
    )


def _draw_score(
    panel: Axes, arm: ArmResult, score: Score, colour: str, first_epoch: int
) -> None:
    mean = score.mean_curve[first_epoch - 1 :]
    stds = None if arm.lost else score.std_curve
    std = stds[first_epoch - 1 :] if stds else None
    epochs = range(first_epoch, first_epoch + len(mean))
    draw_curve(
        panel,
        epochs,
        mean,
        std,
        color=colour,
        label=arm.label,
        linewidth=1.5,
        marker="o" if len(mean) <= _MOST_MARKERS else "",
        markersize=2.5,
        **_dashes(arm.method, arm.lam),
    )
    if arm.is_baseline:
        panel.axhline(mean[-1], color=colour, linestyle=":", linewidth=1)


def _lam_picture(
    section: Section,
    method: str,
    arms: Sequence[ArmResult],
    colours: Mapping[str, str],
) -> Picture:
    figure, panel = _start()
    if (baseline := section.baseline) is not None:
        grey, score = colours[BASELINE], baseline.top1
        panel.axhline(score.mean, color=grey, linewidth=1.5, label=BASELINE)
        if score.std is not None:
            low, high = score.mean - score.std, score.mean + score.std
            panel.axhspan(low, high, color=grey, alpha=0.18, linewidth=0)
    points = sorted(arms, key=lambda arm: arm.lam or 0.0)
    lams = [arm.lam or 0.0 for arm in points]
    means = [arm.top1.mean for arm in points]
    panel.plot(lams, means, color="0.6", linewidth=1, label=method)
    for lam, arm in zip(lams, points, strict=True):
        std = None if arm.lost else arm.top1.std
        _draw_point(panel, lam, arm.top1.mean, std, color=colours[arm.label])
    kept = [(arm.top1.mean, arm.top1.std) for arm in section.arms if not arm.lost]
    panel.set_xscale("log")
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticks(lams, [f"{lam:g}" for lam in lams], fontsize=8)
    panel.set_xlabel("λ")
    panel.set_ylabel(f"final {metric_name(section)} (%)")
    suffix = "" if method == _MAIN_METHOD else f"-{method}"
    return _finish(
        figure,
        panel,
        f"{section.slug}-lam{suffix}.png",
        f"Final accuracy of {method} against λ: mean ± std over seeds; the line and "
        "its band are vanilla's.",
        kept if any(arm.lost for arm in section.arms) else None,
    )


def lengths_picture(study: LengthStudy, colours: Mapping[str, str]) -> Picture:
    """Draw final accuracy against the number of epochs.

    Args:
        study: of a family of recipes.
        colours: of its arms.

    Returns:
        The picture.
    """
    figure, panel = _start()
    for line in study.lines:
        epochs = [point.epochs for point in line.points]
        style: dict[str, Any] = {
            "color": colours[line.label],
            **_dashes(line.method, line.lam),
        }
        panel.plot(
            epochs, [p.mean for p in line.points], label=line.label, lw=1.5, **style
        )
        for p in line.points:
            std = None if p.num_lost else p.std
            _draw_point(panel, p.epochs, p.mean, std, color=colours[line.label])
    points = [point for line in study.lines for point in line.points]
    panel.set_xscale("log", base=2)
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticks(study.epochs, [str(epochs) for epochs in study.epochs])
    panel.set_xlabel("epochs of training")
    panel.set_ylabel("final top-1 accuracy (%)")
    return _finish(
        figure,
        panel,
        f"{study.slug}.png",
        f"{study.name}: final accuracy against the number of epochs, mean ± std over "
        "seeds; every point is a training of its own.",
        [(p.mean, p.std) for p in points if not p.num_lost]
        if any(p.num_lost for p in points)
        else None,
    )


def _start() -> tuple[Figure, Axes]:
    figure = new_figure(*_INCHES)
    return figure, figure.add_subplot()


def _draw_point(
    panel: Axes, x: float, mean: float, std: float | None, *, color: str
) -> None:
    panel.errorbar(
        x, mean, yerr=std, fmt="o", color=color, markersize=5, capsize=3, linewidth=1.2
    )


def _spreads(score: Score, first_epoch: int) -> list[Spread]:
    stds = score.std_curve or (None,) * len(score.mean_curve)
    return list(zip(score.mean_curve, stds, strict=True))[first_epoch - 1 :]


def _focus(panel: Axes, kept: Sequence[Spread]) -> None:
    """Choose the heights by some values: one lost run would flatten all the others."""
    if kept:
        lows = [mean - (std or 0) for mean, std in kept]
        highs = [mean + (std or 0) for mean, std in kept]
        margin = 0.05 * (max(highs) - min(lows)) or 1.0
        panel.set_ylim(min(lows) - margin, max(highs) + margin)


def _dashes(method: str, lam: float | None) -> dict[str, Any]:
    """Dashes tell methods with the same λ, and so the same colour, apart."""
    return {"linestyle": "--" if lam is not None and method != _MAIN_METHOD else "-"}


def _finish(
    figure: Figure,
    panel: Axes,
    name: str,
    caption: str,
    kept: Sequence[Spread] | None,
) -> Picture:
    """Finish a picture; `kept` is what must be seen where a run was lost, else None."""
    if kept is not None:
        caption += _LOST
        _focus(panel, kept)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25, linewidth=0.6)
    labels = panel.get_legend_handles_labels()
    if len(labels[0]) > 1:
        columns = min(4, len(labels[0]))
        legend = figure.legend(
            *labels,
            loc="outside lower center",
            ncols=columns,
            fontsize=8.5,
            frameon=False,
        )
        take_literally(legend)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return Picture(name, caption, buffer.getvalue())
