"""A report as a table on the terminal, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from trainact.lab import table_text
from trainact.lab.json_output import json_text
from trainact.lab.records import Record
from trainact.lab.summary import Arm

COLUMNS = (
    "method",
    "final accuracy",
    "epochs to\nvanilla's",
    "speed-up",
    "s/epoch",
    "seeds",
)
_HEADINGS = tuple(column.replace("\n", " ") for column in COLUMNS)
NOTE = (
    "Final accuracy: test images, after the last epoch, mean ± std over seeds. Epochs "
    "to vanilla's: first epoch at which the mean over seeds reaches vanilla's final "
    "mean, counted for vanilla too. Speed-up: vanilla's such epoch divided by the "
    "method's. s/epoch: median, training only. "
    "Lost: the loss stopped being finite; the run counts with the accuracy it then had."
)


def arm_cells(arm: Arm) -> tuple[str, ...]:
    """Write an arm as the cells of a row.

    Args:
        arm: to be shown.

    Returns:
        One text per column of `COLUMNS`.
    """
    std = "" if arm.final_std is None else f" ± {arm.final_std:.4f}"
    reached = arm.epochs_to_baseline
    diverged = f" ({arm.num_diverged} lost)" if arm.num_diverged else ""
    return (
        arm.label,
        f"{arm.final_mean:.4f}{std}",
        "-" if reached is None else str(reached),
        "-" if arm.speed_up is None else f"{arm.speed_up:.2f}x",
        f"{arm.seconds_per_epoch:.3g}",
        f"{len(arm.seeds)}{diverged}",
    )


def title(arms: Sequence[Arm], records: Sequence[Record]) -> str:
    """Say what was trained.

    Args:
        arms: of one model.
        records: of the comparison.

    Returns:
        For example ``mlp on digits: sgd lr 0.1, cosine, batch 64, 15 epochs``.
    """
    model = arms[0].model
    config = next(r.config for r in records if r.config.model == model)
    return (
        f"{model} on {config.data}: {config.optimizer} lr {config.lr:g}, "
        f"{config.schedule}, batch {config.batch_size}, {config.epochs} epochs"
    )


def rich_table(arms: Sequence[Arm], heading: str) -> Table:
    """Build the table of one model for the terminal.

    Args:
        arms: of one model.
        heading: above the table.

    Returns:
        The table.
    """
    table = Table(
        title=heading, title_justify="left", title_style="bold", box=SIMPLE_HEAD
    )
    for number, column in enumerate(COLUMNS):
        table.add_column(
            column, justify="left" if number == 0 else "right", no_wrap=True
        )
    for arm in arms:
        table.add_row(*arm_cells(arm))
    return table


def markdown(
    report: dict[str, list[Arm]], records: Sequence[Record], state: str
) -> str:
    """Write the whole report as Markdown.

    Args:
        report: arms per model.
        records: it was made from.
        state: how many runs it holds.

    Returns:
        The text of ``summary.md``.
    """
    lines = ["# trainact compare", ""]
    for arms in report.values():
        lines += [f"## {title(arms, records)}", "", *markdown_table(arms), ""]
    lines += [NOTE, "", _provenance(records, state), ""]
    lines += ["![accuracy over epochs](curves.png)", ""]
    return "\n".join(lines)


def markdown_table(arms: Sequence[Arm]) -> list[str]:
    """Write the arms of one model as a Markdown table.

    Args:
        arms: of one model.

    Returns:
        Its lines.
    """
    return table_text.markdown(_HEADINGS, list(map(arm_cells, arms)), left=1)


def _provenance(records: Sequence[Record], state: str) -> str:
    last = records[-1]
    data = last.data
    channels, height, width = data["shape"]
    return (
        f"{state}, from records.jsonl. Data: {data['train']:,} training and "
        f"{data['test']:,} test images of {channels} x {height} x {width}, "
        f"{len(data['classes'])} classes. Made with trainact "
        f"{last.versions['trainact']}, torch {last.versions['torch']} on {last.device} "
        f"({last.threads} threads). Command: `{last.command}`"
    )


def as_json(report: dict[str, list[Arm]], records: Sequence[Record], state: str) -> str:
    """Write the whole report as JSON.

    Args:
        report: arms per model.
        records: it was made from.
        state: how many runs it holds.

    Returns:
        The text of ``summary.json``.
    """
    values: dict[str, Any] = {
        "state": state,
        "keys": [record.key for record in records],
        "models": {
            model: {
                "title": title(arms, records),
                "arms": [_arm_json(arm) for arm in arms],
            }
            for model, arms in report.items()
        },
    }
    return json_text(values)


def _arm_json(arm: Arm) -> dict[str, Any]:
    finals = {"final_mean": arm.final_mean, "final_std": arm.final_std}
    return {**finals, **asdict(arm)}
