"""What was counted and timed for docs/scaling.md, as tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from trainact.lab.table_text import Rows, markdown

COUNTS_COLUMNS = (
    "stem",
    "rows a rank",
    "kept, own",
    "sent, 2 ranks",
    "sent, 3 ranks",
    "products, own, GFLOP",
    "equal to the formulas",
)
WIRE_COLUMNS = (
    "ranks",
    "all-reduce, measured",
    "2 (R - 1) / R",
    "all-gather, measured",
    "R - 1",
)
TIMES_COLUMNS = (
    "network",
    "ranks",
    "vanilla, ms",
    "own / vanilla",
    "shared / own",
    "in its collectives, least, %",
    "most, %",
)
COUNTED = ("collectives", "kept_bytes", "products")


def counts(records: list[dict[str, Any]]) -> str:
    """Bytes and operations of each stem, and how many equal the formulas."""
    rows: Rows = []
    for name in dict.fromkeys(record["stem"] for record in records):
        ours = {r["ranks"]: r["by_rank"] for r in records if r["stem"] == name}
        alone = ours[1][0]
        two, three = (ours[ranks][0]["measured"] for ranks in (2, 3))
        equal = [
            rank["measured"][what] == rank["predicted"][what]
            for ranks in ours.values()
            for rank in ranks
            for what in COUNTED
        ]
        row = (
            name,
            f"{alone['rows']:,}",
            f"{alone['measured']['kept_bytes']:,}",
            sent(two),
            sent(three),
            f"{alone['measured']['products'] / 1e9:.3f}",
            f"{sum(equal)} of {len(equal)}",
        )
        rows.append(row)
    return "\n".join(markdown(COUNTS_COLUMNS, rows, left=1))


def sent(rank: dict[str, Any]) -> str:
    """Bytes that a rank handed to each collective."""
    return " + ".join(f"{call['sent_bytes']:,}" for call in rank["collectives"])


def wires(records: list[dict[str, Any]]) -> str:
    """Bytes over the loopback, beside those of a ring."""
    rows: Rows = []
    for record in records:
        ranks = record["ranks"]
        ratios = (
            record["all_reduce"],
            2 * (ranks - 1) / ranks,
            record["all_gather"],
            ranks - 1,
        )
        rows.append((str(ranks), *(f"{ratio:.3f}" for ratio in ratios)))
    return "\n".join(markdown(WIRE_COLUMNS, rows, left=0))


def times(records: list[dict[str, Any]]) -> str:
    """Ratios of whole steps, and the share of TrAct's collectives."""
    ordered = sorted(records, key=lambda record: record["model"])
    return "\n".join(markdown(TIMES_COLUMNS, list(map(times_row, ordered)), left=1))


def times_row(record: dict[str, Any]) -> tuple[str, ...]:
    vanilla, own, shared = (record["seconds"][a] for a in ("vanilla", "own", "shared"))
    waits = (
        spread(100 * w / s for w, s in zip(record[which], shared, strict=True))
        for which in ("least_waited", "most_waited")
    )
    return (
        record["model"],
        str(record["ranks"]),
        f"{1e3 * statistics.median(vanilla):,.0f}",
        spread(a / b for a, b in zip(own, vanilla, strict=True)),
        spread(a / b for a, b in zip(shared, own, strict=True)),
        *(waits if record["ranks"] > 1 else ("-", "-")),
    )


def spread(values: Iterable[float]) -> str:
    """Median, and where the middle three fifths lie."""
    own = sorted(values)
    low, *_, high = statistics.quantiles(own, n=5, method="inclusive")
    return f"{statistics.median(own):.2f} [{low:.2f}, {high:.2f}]"
