"""The tables of docs/scaling.md: by the formulas, under named assumptions, measured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.scaling_assumptions import (
    BETWEEN,
    GRADIENT_BYTES,
    Case,
    assumptions,
    exchange_s,
    gpu_s,
    link_of,
    read_case,
)
from benchmarks.scaling_links import (
    all_gather_s,
    all_reduce_s,
    ring_all_reduce_s,
)
from benchmarks.scaling_measured import counts, times, wires
from benchmarks.scaling_operations import (
    gram_flops,
    local_work,
    synced_work,
    weight_gradient_flops,
)
from benchmarks.scaling_volumes import (
    Stem,
    collectives,
    exchange,
    local_kept_bytes,
    scratch_bytes,
)
from benchmarks.sections import RECORDS, load, source
from trainact.lab.table_text import markdown

SCALING = RECORDS / "scaling-cpu.jsonl"

GPUS = (8, 64, 512, 4096)
SHARED = 64  # GPUs, where a table shows one number of them

SIZE_COLUMNS = (
    "network",
    "a GPU's input (assumed)",
    "n",
    "rows b",
    "system of one GPU",
    "kept, own",
    "beside it, in the backward",
    "sent by each",
    "gradients",
    "sent / gradients",
)
OPERATION_COLUMNS = (
    "network",
    "step, TFLOP",
    "stem's weight gradient",
    "A from patches (GPU)",
    "A as a CPU forms it",
    "systems, float64",
    "other products",
    "time, own",
    f"time, shared by {SHARED}",
)
EXCHANGE_COLUMNS = ("network", "step, ms", *(f"{ranks:,} GPUs" for ranks in GPUS))
GROWTH_COLUMNS = (
    "network",
    "GPUs",
    "images a GPU",
    "rows a GPU",
    "rows in all",
    "one GPU's own system",
    "exchanged",
    "sent by each, MB",
    "shared systems, GFLOP",
)


def sizes(cases: list[Case]) -> str:
    """How large A is, what is kept of it and what is sent."""
    return "\n".join(markdown(SIZE_COLUMNS, list(map(size_row, cases)), left=1))


def size_row(case: Case) -> tuple[str, ...]:
    stem, gradients = case.stem, GRADIENT_BYTES * case.params
    ranks = [stem.rows] * SHARED
    sent = collectives(stem, ranks)[-1].sent_bytes
    kept = local_kept_bytes(stem)
    return (
        case.name,
        f"{case.images} of {'x'.join(map(str, stem.shape[1:]))}",
        f"{stem.entries:,}",
        f"{stem.rows:,}",
        system_name(stem),
        *map(megabytes, (kept, scratch_bytes(stem), sent, gradients)),
        percent(sent / gradients),
    )


def system_name(stem: Stem) -> str:
    return "b x b" if stem.is_dual else "n x n"


def operations(cases: list[Case]) -> str:
    """Operations as shares of a step's, and the modelled time."""
    rows = list(map(operation_row, cases))
    return "\n".join(markdown(OPERATION_COLUMNS, rows, left=1))


def operation_row(case: Case) -> tuple[str, ...]:
    stem, step = case.stem, case.step_flops
    own = local_work(stem, "cuda")
    shared = synced_work(stem, "cuda", SHARED * stem.rows)
    on_cpu = "-" if stem.is_dual else percent(local_work(stem, "cpu").gram / step)
    return (
        case.name,
        significant(step / 1e12),
        percent(weight_gradient_flops(stem) / step),
        percent(gram_flops(stem, "cuda", None) / step),
        on_cpu,
        percent(shared.systems / step),
        percent((shared.basis + shared.apply) / step),
        *(percent(gpu_s(stem, work) / case.step_s) for work in (own, shared)),
    )


def exchanges(cases: list[Case]) -> str:
    """Modelled time of TrAct's collectives and of the gradients'."""
    rows = list(map(exchange_row, cases))
    return "\n".join(markdown(EXCHANGE_COLUMNS, rows, left=1))


def exchange_row(case: Case) -> tuple[str, ...]:
    cells: list[str] = []
    for ranks in GPUS:
        gradients = all_reduce_s(GRADIENT_BYTES * case.params, ranks, link_of(ranks))
        ours = exchange_s(case, ranks)
        cells.append(f"{significant(1e3 * ours)} / {significant(1e3 * gradients)}")
    return (case.name, significant(1e3 * case.step_s), *cells)


def latencies() -> str:
    """What a ring of the most GPUs takes however little is sent."""
    ranks, link = GPUS[-1], BETWEEN
    reduced, gathered = (
        1e3 * of_ring(0, ranks, link) for of_ring in (ring_all_reduce_s, all_gather_s)
    )
    return (
        f"{ranks:,} GPUs: {significant(reduced)} ms for an all-reduce and "
        f"{significant(gathered)} ms for an all-gather"
    )


def growth(cases: list[Case]) -> str:
    """Where the form depends on how many GPUs share the rows."""
    by_name = {case.name: case for case in cases}
    points = [
        (by_name[name], ranks)
        for name in ("VideoMAE-B", "UNETR, 1 channel", "UNETR, 4 channels")
        for ranks in GPUS
    ]
    vit, all_images = by_name["ViT-B/16"], GPUS[-1]
    points += [(vit.of(all_images // ranks), ranks) for ranks in GPUS]
    rows = [growth_row(*point) for point in points]
    return "\n".join(markdown(GROWTH_COLUMNS, rows, left=1))


def growth_row(case: Case, ranks: int) -> tuple[str, ...]:
    stem, all_rows = case.stem, ranks * case.stem.rows
    rows = [stem.rows] * ranks
    return (
        case.name,
        f"{ranks:,}",
        f"{case.images}",
        f"{stem.rows:,}",
        f"{all_rows:,}",
        system_name(stem),
        exchange(stem.entries, all_rows, ranks),
        megabytes(sum(call.sent_bytes for call in collectives(stem, rows))),
        significant(synced_work(stem, "cuda", all_rows).systems / 1e9),
    )


def megabytes(num_bytes: float) -> str:
    return significant(num_bytes / 1e6)


def percent(share: float) -> str:
    return "< 0.001 %" if 0 < share < 1e-5 else f"{significant(100 * share)} %"


def significant(value: float) -> str:
    """Two significant digits or all whole ones, without an exponent."""
    if value == 0 or abs(value) >= 10:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"


def scaling_sections() -> dict[str, str]:
    """Every marked region of the page that is a block of lines."""
    by_kind = read_records()
    cases = [read_case(record) for record in by_kind["model"]]
    return {
        "assumptions": assumptions(),
        "sizes": sizes(cases),
        "operations": operations(cases),
        "exchanges": exchanges(cases),
        "growth": growth(cases),
        "counts": counts(by_kind["counts"]),
        "wires": wires(by_kind["wire"]),
        "times": times(by_kind["time"]),
    }


def scaling_cells() -> dict[str, str]:
    """Regions inside a line."""
    last = read_records()["time"][-1]
    rounds = len(last["seconds"]["vanilla"])
    return {
        "latencies": latencies(),
        "rounds": f"{rounds} rounds",
        "setting": source(last, SCALING),
        "libraries": ", ".join(libraries()),
    }


def libraries() -> Iterable[str]:
    return dict.fromkeys(record["library"] for record in read_records()["model"])


def read_records() -> dict[str, list[dict[str, Any]]]:
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for record in load(SCALING):
        by_kind.setdefault(record["kind"], []).append(record)
    return by_kind
