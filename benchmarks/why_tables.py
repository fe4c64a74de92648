"""The tables of `docs/why-it-works.md`, from the records of `benchmarks.why`."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any

from benchmarks.sections import RECORDS as FOLDER
from benchmarks.sections import source
from trainact.lab.table_text import Rows, markdown

RECORDS = FOLDER / "why-cpu.jsonl"
MEASURES = ("proposal", "spectrum", "shares", "filters")
LAYERS = {
    "words, each once": "words, each once",
    "words": "words of a text",
    "mlp": "mlp, whole images",
    "small-vit": "small-vit, 4x4 patches",
    "small-cnn": "small-cnn, 3x3 patches",
}
INPUTS = {"data": "standardised", "0-1": "in [0, 1]"}
LAM = 0.1
DIRECTIONS = (3, 10, 30)
Records = Sequence[dict[str, Any]]


def why_section(records: Records) -> list[str]:
    """Write, for each kind of measurement there is, its picture and its table.

    Args:
        records: of `benchmarks.why`.

    Returns:
        Lines of Markdown.
    """
    lines: list[str] = []
    for measure in MEASURES:
        some = [record for record in records if record["measure"] == measure]
        if some:
            columns, rows, left, note = TABLES[measure](some)
            lines += [
                f"![{measure}](why-{measure}.png)",
                "",
                *markdown(columns, rows, left),
                "",
                f"{note}; {source(some[-1], RECORDS)}.",
                "",
            ]
    return lines[:-1]


Table = tuple[Sequence[str], Rows, int, str]


def proposal_table(records: Records) -> Table:
    """Errors and angles of steps, for each layer and length of training."""
    columns = (
        "first layer",
        "rows x entries",
        "epochs",
        "error: vanilla",
        "TrAct",
        "best possible",
        "cosine of the best possible to what is asked (by chance)",
        "cosine to the best possible: vanilla",
        "TrAct",
        "spread of own parts: vanilla",
        "TrAct",
    )
    rows: Rows = []
    for (layer, epochs), members in grouped(records, "layer", "epochs").items():
        count, entries = members[0]["rows"], members[0]["entries"]
        is_text = layer.startswith("words")
        chance = min(1.0, entries / count) ** 0.5

        def cells(
            field: str,
            *ways: str,
            members: Records = members,
            is_text: bool = is_text,
        ) -> list[str]:
            means = {
                way: statistics.mean(m[field][way] for m in members) for way in ways
            }
            # An embedding is not put under TrAct.
            hidden = {"tract"} if is_text else set[str]()
            return ["-" if w in hidden else f"{v:.4f}" for w, v in means.items()]

        rows.append(
            (
                LAYERS[layer],
                f"{count:,} x {entries:,}",
                str(epochs),
                *cells("error", "plain", "tract", "best"),
                f"{cells('cosine', 'best')[0]} ({chance:.4f})",
                *cells("cosine_to_best", "plain", "tract"),
                *cells("own_variation", "plain", "tract"),
            )
        )
    note = (
        f"Means over {count_seeds(records)} seeds. Error: relative distance of the "
        "change of the pre-activations to what is asked for, vanilla at the step "
        "length that serves it best; best possible: of all changes of the weights. "
        "Spread of own parts: std over mean, over rows, of the factor at which a row's "
        "gradient comes back in its own change"
    )
    return columns, rows, 2, note


def spectrum_table(records: Records) -> Table:
    """How few directions hold most of the input."""
    columns = (
        "images",
        "input",
        "patch",
        "entries",
        "largest eigenvalue",
        "its share of the trace",
        "directions for 90 % of it",
        "eigenvalues above λ",
        "Σ μ / (μ + λ)",
        "largest / smallest",
    )
    rows: Rows = []
    for record in records:
        values: list[float] = record["eigenvalues"]
        total = sum(values)
        needed = 1 + sum(part < 0.9 * total for part in accumulate(values))
        rows.append(
            (
                record["data"],
                INPUTS[record["input"]],
                f"{record['kernel']}x{record['kernel']}, stride {record['stride']}",
                str(len(values)),
                f"{values[0]:.3g}",
                f"{100 * values[0] / total:.0f} %",
                str(needed),
                str(sum(value > LAM for value in values)),
                f"{sum(value / (value + LAM) for value in values):.1f}",
                f"{values[0] / values[-1]:.0e}",
            )
        )
    note = f"{records[0]['images']:,} images each, λ = {LAM:g}"
    return columns, rows, 3, note


def shares_table(records: Records) -> Table:
    """Shares of the lowest, the middle and the highest images."""
    columns = (
        "first layer",
        "input",
        "by",
        "epochs",
        "vanilla: lowest / middle / highest",
        "TrAct",
        "vanilla, gradients of equal norm",
        "TrAct, gradients of equal norm",
        "norm of the gradient",
        "spread over images: vanilla",
        "TrAct",
    )
    series = ("plain", "tract", "plain alone", "tract alone", "gradient")
    rows: Rows = []
    keys = ("layer", "input", "by", "epochs")
    for (layer, normalise, by, epochs), members in grouped(records, *keys).items():
        spreads = (
            statistics.mean(m["variation"][way] for m in members)
            for way in ("plain", "tract")
        )
        rows.append(
            (
                LAYERS[layer],
                INPUTS[normalise],
                by,
                str(epochs),
                *(" / ".join(f"{x:.2f}" for x in ends(members, s)) for s in series),
                *(f"{spread:.2f}" for spread in spreads),
            )
        )
    note = (
        f"Means over {count_seeds(records)} seeds. Lowest and highest: a tenth of the "
        "images each, middle: the two tenths between; 1 is a share like everyone's. "
        "Norm of the gradient: of the pre-activations, what is asked for. Spread over "
        "images: std over mean of their shares"
    )
    return columns, rows, 3, note


def ends(records: Records, series: str) -> tuple[float, float, float]:
    """Lowest, middle and highest decile, mean over records; 1 is an equal one."""
    deciles = zip(*(record["deciles"][series] for record in records), strict=True)
    means = [statistics.mean(of_seeds) for of_seeds in deciles]
    units = [len(means) * mean for mean in means]
    half = len(units) // 2
    return units[0], statistics.mean(units[half - 1 : half + 1]), units[-1]


def filters_table(records: Records) -> Table:
    """Accuracy, length and place of the change."""
    epochs = len(records[0]["accuracy"])
    columns = (
        "method",
        *(f"accuracy after epoch {epoch}" for epoch in range(1, epochs + 1)),
        "change / initial weights",
        *(f"of it in the first {count} directions" for count in DIRECTIONS),
    )
    rows: Rows = []
    for members in grouped(records, "method").values():
        accuracies = zip(*(member["accuracy"] for member in members), strict=True)
        inside = (
            statistics.mean(sum(member["energy"][:count]) for member in members)
            for count in DIRECTIONS
        )
        rows.append(
            (
                arm_name(members[0]),
                *(with_std(100 * value for value in of) for of in accuracies),
                f"{statistics.mean(member['moved'] for member in members):.2f}",
                *(f"{100 * share:.0f} %" for share in inside),
            )
        )
    note = (
        f"{count_seeds(records)} seeds, mean ± std; learning rate "
        f"{records[0]['first_layer_lr']:g} unless said. Change / initial weights: "
        f"ratio of norms. Directions: of {len(records[0]['energy'])}, by eigenvalue"
    )
    return columns, rows, 1, note


TABLES: dict[str, Callable[[Records], Table]] = {
    "proposal": proposal_table,
    "spectrum": spectrum_table,
    "shares": shares_table,
    "filters": filters_table,
}


def arm_name(record: dict[str, Any]) -> str:
    """As pictures and tables show it."""
    rate = f"{record['first_layer_lr']:g}"
    names = {"vanilla": "vanilla", "tract": "TrAct"}
    return names.get(record["method"], f"vanilla, first layer lr {rate}")


def grouped(records: Records, *keys: str) -> dict[tuple[Any, ...], Records]:
    """Records by the values of some fields."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        groups[tuple(record[key] for key in keys)].append(record)
    return dict(groups)


def count_seeds(records: Records) -> int:
    return len({record["seed"] for record in records})


def with_std(values: Iterable[float]) -> str:
    listed = list(values)
    return f"{statistics.mean(listed):.1f} ± {statistics.stdev(listed):.1f}"
