"""Numbers as texts, and what a table is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainact.lab.reporting.scores import Spread

NONE = "-"
MINUS = "\N{MINUS SIGN}"
# A text, or a mean and its "± std", which stand in two columns so that both align.
Cell = str | tuple[str, str]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: above it.
        group: above the headings of neighbours with the same group.
        is_spread: whether its cells are pairs.
    """

    heading: str
    group: str = ""
    is_spread: bool = False


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        cells: one per column.
        colour: of the dot before the first cell, or None.
        link: id of what the first cell leads to, or None.
        kind: ``total`` for one that sums the others up, ``heading`` for one whose only
            cell stands above the rows that follow.
    """

    cells: tuple[Cell, ...]
    colour: str | None = None
    link: str | None = None
    kind: Literal["", "total", "heading"] = ""


@dataclass(frozen=True)
class Table:
    """A table; its first column is text, the others are numbers.

    Attributes:
        caption: above it.
        columns: from left to right.
        rows: from top to bottom.
        notes: below it.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Number of its cells from left to right."""
        return sum(width for _, width in self.groups)

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Groups of neighbouring columns and how many cells wide they are."""
        found: list[tuple[str, int]] = []
        for column in self.columns:
            width = 2 if column.is_spread else 1
            if found and found[-1][0] == column.group:
                found[-1] = column.group, found[-1][1] + width
            else:
                found.append((column.group, width))
        return found


def spread(value: Spread | None) -> tuple[str, str]:
    """Write a mean and its std.

    Args:
        value: in per cent, or None.

    Returns:
        For example ``("71.96", "± 0.24")``.
    """
    if value is None:
        return NONE, ""
    mean, std = value
    return f"{mean:.2f}", "" if std is None else f"± {std:.2f}"


def signed(value: float | None, digits: int = 2) -> str:
    """Write a difference.

    Args:
        value: to be written, or None.
        digits: behind the point.

    Returns:
        For example ``+0.31``; a value that rounds to 0 has no sign.
    """
    if value is None:
        return NONE
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def probability(value: float | None) -> str:
    """Write a p-value.

    Args:
        value: to be written, or None.

    Returns:
        For example ``0.012`` or ``<0.001``.
    """
    if value is None:
        return NONE
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def times(value: float | None) -> str:
    """Write a speed-up.

    Args:
        value: to be written, or None.

    Returns:
        For example ``1.50x``.
    """
    return NONE if value is None else f"{value:.2f}x"


def amount(value: float | None) -> str:
    """Write seconds or images per second with three digits that count.

    Args:
        value: to be written, or None.

    Returns:
        For example ``1,091``, ``10.9`` or ``0.610``.
    """
    if value is None:
        return NONE
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"
