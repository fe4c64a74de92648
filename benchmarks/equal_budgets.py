"""The tables of complete trainings of several lengths, from their records."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from trainact.lab.analysis import (
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
NOTE = """
Accuracy: test images, after the last epoch, mean ± std over seeds, learning rate in
brackets. Difference: in points to vanilla training, over pairs with the same seed, with
its 95 % interval by Student's t; p after Holm's correction over the rows of the table.
Speed-up: the budget at which vanilla training is as accurate over the method's own,
vanilla's accuracy interpolated in the logarithm of the budget, with the middle 95 %
over draws of seeds; above or below: outside of vanilla's budgets. Seconds: training
alone.
"""


def budgets_section(records: Sequence[Record]) -> list[str]:
    """Compare complete trainings, in both readings.

    Args:
        records: of the recipes ``equal-budgets``.

    Returns:
        Lines of Markdown.
    """
    if not records:
        return ["Not run yet."]
    runs = run_table(records)
    lines: list[str] = []
    for which in (OWN, VANILLAS):
        rows = reading(runs, which)
        lines += [f"**At {which}**", "", *_accuracies(rows), ""]
        lines += [*_differences(rows), "", *_speed_ups(rows), ""]
    return [*lines, *NOTE.strip().splitlines()]


def _accuracies(rows: pd.DataFrame) -> list[str]:
    lengths = sorted(rows.epochs.unique())
    cells = {
        key: f"{_mean(group.accuracy)} ({group.lr.iloc[0]:g})"
        for key, group in rows.groupby(["arm", "epochs"])
    }
    table = [
        (arm, *(cells.get((arm, epochs), "") for epochs in lengths))
        for arm in rows.arm.unique()
    ]
    return markdown(["method", *(f"{n} epochs" for n in lengths)], table, left=1)


def _mean(accuracies: pd.Series) -> str:
    mean = f"{accuracies.mean():.2f}"
    if len(accuracies) == 1:
        return f"{mean} {ONE_SEED}"
    return f"{mean} ± {accuracies.std():.2f}"


def _differences(rows: pd.DataFrame) -> list[str]:
    table: list[tuple[str, ...]] = []
    for row in differences(rows).to_dict("records"):
        lengths = (row["arm"], str(row["epochs"]), str(row["vanilla_epochs"]))
        ends = f"[{row['low']:+.2f}, {row['high']:+.2f}]"
        difference = f"{row['mean']:+.2f} {ends if row['n'] > 1 else ONE_SEED}"
        p = "" if math.isnan(row["p_holm"]) else f"{row['p_holm']:.2g}"
        table.append((*lengths, difference, p, str(row["n"])))
    headings = ["method", "epochs", "vanilla's epochs", "difference", "p", "seeds"]
    return markdown(headings, table, left=1)


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
    return f"{value} [{ends[0]}, {ends[1]}]" if n > 1 else f"{value} {ONE_SEED}"
