"""The tables of complete trainings, from their records: by length, by first layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from trainact.lab.analysis import (
    HELD_OUT,
    OWN,
    VANILLAS,
    differences,
    reading,
    run_table,
    speed_up,
)
from trainact.lab.records import Record
from trainact.lab.summary import BASELINE
from trainact.lab.table_text import markdown

ONE_SEED = "(one seed)"
HELD_OUT_SEED = "(held-out images, one seed)"
NOT_RUN = ["Not run yet."]
BOTH = (OWN, VANILLAS)
_COLUMNS = """
Accuracy: test images, after the last epoch, mean ± std over seeds, learning rate in
brackets. Difference: in points to vanilla training, over pairs with the same seed, with
its 95 % interval by Student's t; p after Holm's correction over the rows of the table.
"""
NOTE = f"""{_COLUMNS.rstrip()}
Speed-up: the budget at which vanilla training is as accurate over the method's own,
vanilla's accuracy interpolated in the logarithm of the budget, with the middle 95 %
over draws of seeds; above: more accurate than vanilla's longest budget here, below:
less than its shortest. In seconds: by the median time of an epoch, of training alone.
"""
LAYERS_NOTE = f"""{_COLUMNS.rstrip()}
Where there is no accuracy, the difference is that of the runs which chose the learning
rates, each arm at its best: an arm that was more than 3 points behind there was not
trained further.
"""


def budgets_section(
    records: Sequence[Record], readings: Sequence[str] = BOTH
) -> list[str]:
    """Compare complete trainings of several lengths.

    Args:
        records: of recipes that differ in length.
        readings: see `trainact.lab.analysis.reading`.

    Returns:
        Lines of Markdown.
    """
    if not records:
        return NOT_RUN
    lines: list[str] = []
    for _, runs in run_table(records).groupby("problem"):
        for which in readings:
            rows = reading(runs, which)
            lines += [f"**{_problem(runs)}, at {which}**", "", *_accuracies(rows), ""]
            lines += [*_differences(rows), "", *_speed_ups(rows), ""]
    return [*lines, *NOTE.strip().splitlines()]


def layers_section(records: Sequence[Record]) -> list[str]:
    """Compare the gain of TrAct, in several forms, between kinds of first layers.

    Args:
        records: of the recipes ``layers``.

    Returns:
        Lines of Markdown.
    """
    if not records:
        return NOT_RUN
    runs = run_table(records)
    lines: list[str] = []
    for which in BOTH:
        lines += [f"**At {which}**", "", *_layers(runs, which), ""]
    return [*lines, *LAYERS_NOTE.strip().splitlines()]


def _layers(runs: pd.DataFrame, which: str) -> list[str]:
    """A row for each kind of first layer and arm; Holm's correction is over all."""
    rows, table = reading(runs, which), list[tuple[str, ...]]()
    compared = _by_arm(differences(rows, multiples=(1,)))
    chose = _by_arm(differences(reading(runs, HELD_OUT), multiples=(1,)))
    kinds = ["problem", "model", "batch_size", "arm"]
    for problem, model, batch_size, arm in runs[kinds].drop_duplicates().to_numpy():
        own = rows.loc[(rows.problem == problem) & (rows.arm == arm)]
        accuracy, *difference = _accuracy(own) if len(own) else "", "", "", ""
        if (problem, arm) in compared:
            difference = _difference(compared[problem, arm])
        elif own.empty and (problem, arm) in chose:
            difference = f"{chose[problem, arm]['mean']:+.2f} {HELD_OUT_SEED}", "", ""
        table.append((f"{model}, {batch_size}", arm, accuracy, *difference))
    headings = ["network, batch", "method", "accuracy", "difference", "p", "seeds"]
    return markdown(headings, table, left=2)


def _by_arm(compared: pd.DataFrame) -> dict[tuple[int, str], Any]:
    return {(row["problem"], row["arm"]): row for row in compared.to_dict("records")}


def _problem(runs: pd.DataFrame) -> str:
    first = runs.iloc[0]
    data = first.data.rpartition("/")[2]
    images = f"{runs.images.max():,} images in batches of {first.batch_size}"
    return f"{first.model} on {data}, {images}, {first.optimizer}"


def _accuracies(rows: pd.DataFrame) -> list[str]:
    lengths = sorted(rows.epochs.unique())
    cells = {key: _accuracy(group) for key, group in rows.groupby(["arm", "epochs"])}
    table = [
        (arm, *(cells.get((arm, epochs), "") for epochs in lengths))
        for arm in rows.arm.unique()
    ]
    return markdown(["method", *(f"{n} epochs" for n in lengths)], table, left=1)


def _accuracy(rows: pd.DataFrame) -> str:
    mean, rate = f"{rows.accuracy.mean():.2f}", f"({rows.lr.iloc[0]:g})"
    spread = ONE_SEED if len(rows) == 1 else f"± {rows.accuracy.std():.2f}"
    return f"{mean} {spread} {rate}"


def _differences(rows: pd.DataFrame) -> list[str]:
    table: list[tuple[str, ...]] = []
    for row in differences(rows).to_dict("records"):
        lengths = (row["arm"], str(row["epochs"]), str(row["vanilla_epochs"]))
        table.append((*lengths, *_difference(row)))
    headings = ["method", "epochs", "vanilla's epochs", "difference", "p", "seeds"]
    return markdown(headings, table, left=1)


def _difference(row: Mapping[Any, Any]) -> tuple[str, str, str]:
    ends = f"[{row['low']:+.2f}, {row['high']:+.2f}]"
    difference = f"{row['mean']:+.2f} {ends if row['n'] > 1 else ONE_SEED}"
    p = "" if math.isnan(row["p_holm"]) else f"{row['p_holm']:.2g}"
    return difference, p, str(row["n"])


def _speed_ups(rows: pd.DataFrame) -> list[str]:
    table: list[tuple[str, ...]] = []
    for arm, epochs in sorted(set(zip(rows.arm, rows.epochs, strict=True))):
        if arm != BASELINE and BASELINE in set(rows.arm):
            found = [speed_up(rows, arm, epochs, by) for by in ("epochs", "seconds")]
            if n := found[0]["n"]:
                cells = [_with_interval(**one) for one in found]
                table.append((arm, str(epochs), *cells, str(n)))
    headings = ["method", "epochs", "speed-up in epochs", "in seconds", "seeds"]
    return markdown(headings, table, left=1)


def _with_interval(ratio: float, low: float, high: float, n: float) -> str:
    value, *ends = (
        "below" if x == 0 else "above" if x == math.inf else f"{x:.2f}"
        for x in (ratio, low, high)
    )
    if n == 1:
        return f"{value} {ONE_SEED}"
    is_one_word = value in ("above", "below") and {*ends} == {value}
    return value if is_one_word else f"{value} [{ends[0]}, {ends[1]}]"
