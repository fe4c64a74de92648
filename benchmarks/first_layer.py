"""The tables of `docs/first-layer-benchmark.md`, from the records of the studies."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence

from trainact.lab.bench.tables import markdown
from trainact.lab.methods import METHODS
from trainact.lab.records import Record
from trainact.lab.reporting.scores import paired_test

BASELINE = "vanilla"

# Learning rate -> seed -> final accuracy, of one arm.
Tuning = dict[float, dict[int, float]]


def optimizer_section(records: Sequence[Record]) -> list[str]:
    """Compare, for each optimizer and length, the arms at their own best rates.

    Args:
        records: of the study ``optimizers``.

    Returns:
        Lines of Markdown.
    """
    groups: dict[tuple[str, int, str], list[Record]] = defaultdict(list)
    for record in records:
        config = record.config
        groups[config.data, config.epochs, config.optimizer].append(record)
    lines: list[str] = []
    for (data, epochs, optimizer), members in groups.items():
        config = members[0].config
        images = f"{members[0].data['train']:,} images"
        lines += [
            f"**{config.model} on {data}, {images}: {optimizer}, {epochs} epochs**",
            "",
            *_table(_tunings(members)),
            "",
        ]
    return lines


def _tunings(records: Iterable[Record]) -> dict[str, Tuning]:
    """By arm, in the order in which the laboratory lists its methods."""
    places = {method: place for place, method in enumerate(METHODS)}
    found: dict[str, Tuning] = {}
    for record in sorted(records, key=lambda r: places[r.config.method]):
        rates = found.setdefault(record.config.arm, {})
        of_seed = rates.setdefault(record.config.lr, {})
        of_seed[record.config.seed] = record.accuracy[-1]
    return found


def _table(tunings: dict[str, Tuning]) -> list[str]:
    rates = sorted({lr for tuning in tunings.values() for lr in tuning})
    headings = ["method", *(f"lr {lr:g}" for lr in rates), "gain", "p", "seeds"]
    rows: list[tuple[str, ...]] = []
    baseline = _best(tunings[BASELINE])
    for arm, tuning in tunings.items():
        best = _best(tuning)
        cells = [_accuracy(tuning.get(lr, {}), is_best=lr == best) for lr in rates]
        own, others = tuning[best], tunings[BASELINE][baseline]
        rows.append((arm, *cells, *_gain(own, others), str(len(own))))
    return markdown(headings, rows, left=1)


def _best(tuning: Tuning) -> float:
    """The learning rate with the highest mean."""
    return max(tuning, key=lambda lr: statistics.fmean(tuning[lr].values()))


def _accuracy(of_seed: dict[int, float], *, is_best: bool) -> str:
    if not of_seed:
        return ""
    percent = [100 * accuracy for accuracy in of_seed.values()]
    text = f"{statistics.fmean(percent):.2f}"
    if len(percent) > 1:
        text += f" ± {statistics.stdev(percent):.2f}"
    return f"**{text}**" if is_best else text


def _gain(own: dict[int, float], others: dict[int, float]) -> tuple[str, str]:
    """Mean difference in points over the seeds of both, and the paired t-test's p."""
    seeds = sorted(own.keys() & others.keys())
    if own is others or not seeds:
        return "", ""
    pairs = [(own[seed], others[seed]) for seed in seeds]
    mean = 100 * statistics.fmean(a - b for a, b in pairs)
    p = paired_test(*zip(*pairs, strict=True)).p
    return f"{mean:+.2f}", "" if p is None else f"{p:.2g}"
