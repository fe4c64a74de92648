"""First layers of every model of the libraries people use, found and checked.

    python -m benchmarks.zoo [--libraries timm torchvision ...] [--out FILE]

For every model the layers that `trainact.first_layers` finds without an example are
compared with those that a documented input reaches when followed, and with timm's own
``first_conv``. One record per model; models that FILE has already are not done again.
The summary is printed.
"""

from __future__ import annotations

import argparse
import json
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import zoo_models
from benchmarks.zoo_exceptions import explain
from benchmarks.zoo_models import Entry
from trainact.find.by_structure import read_structure
from trainact.find.first_layers import find_first_layers

LIBRARIES: dict[str, Callable[[], Iterator[Entry]]] = {
    "timm": zoo_models.timm_models,
    "torchvision": zoo_models.torchvision_models,
    "transformers": zoo_models.transformers_models,
    "segmentation-models-pytorch": zoo_models.segmentation_models,
    "monai": zoo_models.monai_models,
}


def examine(entry: Entry) -> dict[str, Any]:
    """Build a model, find its first layers in every way, and compare."""
    record: dict[str, Any] = {
        "library": entry.library,
        "version": entry.version,
        "name": entry.name,
    }
    try:
        model = _build(entry)
    except Exception as error:
        return {**record, "verdict": "not built", "reason": _short(error)}
    start = time.perf_counter()
    structure = read_structure(model)
    record["structure_ms"] = round(1e3 * (time.perf_counter() - start), 1)
    is_certain = structure is not None and structure.doubt is None
    record["found_by"] = "structure" if is_certain else "made-up input"
    record["found"], record["refusal"], record["found_ms"] = _timed(model, None)
    try:
        example = entry.example(model)
    except Exception as error:
        return {**record, "verdict": "no input known", "reason": _short(error)}
    record["followed"], reason, record["followed_ms"] = _timed(model, example)
    record["first_conv"] = _first_conv(model)
    record["verdict"] = _verdict(record)
    if reason:
        record["reason"] = reason
    return record


def _build(entry: Entry) -> nn.Module:
    try:
        with torch.device(entry.device):
            return entry.build()
    except (NotImplementedError, RuntimeError):  # it reads its weights while building
        with torch.device("cpu"):
            return entry.build()


def _timed(model: nn.Module, example: Any) -> tuple[list[str] | None, str | None, int]:
    start = time.perf_counter()
    names, refusal = None, None
    try:
        names = sorted(find_first_layers(model, example))
    except Exception as error:
        refusal = _short(error)
    return names, refusal, round(1e3 * (time.perf_counter() - start))


def _first_conv(model: nn.Module) -> list[str] | str | None:
    config: Any = getattr(model, "pretrained_cfg", None)
    claimed = config.get("first_conv") if hasattr(config, "get") else None
    return list(claimed) if isinstance(claimed, tuple) else claimed


def _verdict(record: dict[str, Any]) -> str:
    if record["followed"] is None:
        return "not followed"
    if record["found"] is None:
        return "refused"
    return "agree" if record["found"] == record["followed"] else "WRONG"


def _short(error: Exception) -> str:
    return re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:200]


def annotate(record: dict[str, Any]) -> dict[str, Any]:
    """Say how timm's metadata compares, and why a model is an exception."""
    claimed = record.get("first_conv")
    claimed = [claimed] if isinstance(claimed, str) else claimed
    metadata = None
    if claimed and record.get("followed"):
        metadata = "agrees" if sorted(claimed) == record["followed"] else "differs"
    annotated = {**record, "metadata": metadata}
    for key in ("first_conv", "metadata", "refusal"):
        if annotated.get(key) is None:
            annotated.pop(key, None)
    if record["verdict"] != "agree" or metadata == "differs":
        annotated["explanation"] = explain(record["library"], record["name"])
    else:
        annotated.pop("refusal", None)
    return annotated


def read(path: Path) -> list[dict[str, Any]]:
    """Records that an earlier run has left."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, records: list[dict[str, Any]]) -> None:
    """Annotate and sort all records."""
    order = {library: i for i, library in enumerate(LIBRARIES)}
    records = sorted(records, key=lambda r: (order[r["library"]], r["name"]))
    lines = (json.dumps(annotate(r), separators=(",", ":")) for r in records)
    path.write_text("".join(f"{line}\n" for line in lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--libraries", nargs="*", default=list(LIBRARIES))
    parser.add_argument("--only", default="", help="regular expression on names")
    parser.add_argument("--every", type=int, default=1, help="take every n-th model")
    parser.add_argument("--out", type=Path, default=Path("runs/first-layers.jsonl"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    done = {(r["library"], r["name"]) for r in read(arguments.out)}
    with arguments.out.open("a") as file:
        for library in arguments.libraries:
            entries = [
                e for e in LIBRARIES[library]() if re.search(arguments.only, e.name)
            ]
            for entry in entries[:: arguments.every]:
                if (library, entry.name) not in done:
                    file.write(json.dumps(examine(entry)) + "\n")
                    file.flush()
    records = read(arguments.out)
    write(arguments.out, records)
    for (library, verdict), count in sorted(_verdicts(records).items()):
        print(f"{library:28s} {verdict:14s} {count}")


def _verdicts(records: list[dict[str, Any]]) -> Counter[tuple[str, str]]:
    return Counter((r["library"], r["verdict"]) for r in records)


if __name__ == "__main__":
    main()
