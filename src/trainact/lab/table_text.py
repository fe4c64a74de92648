"""Rows of texts as a table, for Markdown and for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

Rows = list[tuple[str, ...]]


def markdown(columns: Sequence[str], rows: Rows, left: int = 3) -> list[str]:
    """Write a Markdown table.

    Args:
        columns: headings.
        rows: texts.
        left: number of columns aligned to the left.

    Returns:
        Its lines.
    """
    rule = ["---" if i < left else "---:" for i in range(len(columns))]
    return [f"| {' | '.join(cells)} |" for cells in (columns, rule, *rows)]


def plain(columns: Sequence[str], rows: Rows, left: int = 3) -> list[str]:
    """Write a table for a terminal.

    Args:
        columns: headings.
        rows: texts.
        left: number of columns aligned to the left.

    Returns:
        Its lines.
    """
    table = [tuple(columns), *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            f"{cell:<{width}}" if index < left else f"{cell:>{width}}"
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
