"""Final accuracies of recipes as a table for the terminal."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from trainact.lab.records import Record


def results_table(records: Iterable[Record]) -> Table:
    """Build a table with a row for every recipe and method.

    Args:
        records: finished runs.

    Returns:
        The table; accuracies are of the last epoch, mean ± std over seeds.
    """
    groups: dict[tuple[str, str, str], list[Record]] = {}
    metrics: dict[str, None] = {}
    for record in records:
        name = record.recipe or record.config.model
        key = (name, record.recipe_hash, record.config.arm)
        groups.setdefault(key, []).append(record)
        metrics[record.config.metric] = None
    table = Table(box=SIMPLE_HEAD)
    columns = ("recipe", "method", " or ".join(metrics), "top-5", "s/epoch", "seeds")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < 2 else "right")
    for (name, _, arm), runs in groups.items():
        table.add_row(name, arm, *_cells(runs))
    return table


def _cells(runs: Sequence[Record]) -> list[str]:
    seconds = statistics.median(second for run in runs for second in run.seconds)
    lost = sum(run.diverged for run in runs)
    return [
        _mean_and_std([run.accuracy[-1] for run in runs]),
        _mean_and_std([run.top5[-1] for run in runs if run.top5]),
        f"{seconds:.3g}",
        f"{len(runs)}" + (f" ({lost} lost)" if lost else ""),
    ]


def _mean_and_std(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.4f}"
