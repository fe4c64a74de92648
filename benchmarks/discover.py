"""Time to find the first layer of a model that exists already.

    python -m benchmarks.discover [--rounds 51] [--out FILE]

By structure, and by following an image of 224 x 224; milliseconds on this machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import nn

import trainact
from trainact.lab.environment import describe

MODELS: dict[str, Callable[[], nn.Module]] = {
    "torchvision resnet50": torchvision.models.resnet50,
    "torchvision vit_b_16": torchvision.models.vit_b_16,
    "timm resnet50": lambda: timm.create_model("resnet50"),
    "timm vit_base_patch16_224": lambda: timm.create_model("vit_base_patch16_224"),
}


def measure(model: nn.Module, example: Any, rounds: int) -> dict[str, float]:
    """The first call and quantiles of all, in ms."""
    times: list[float] = []
    for _ in range(rounds):
        start = time.perf_counter()
        trainact.first_layers(model, example)
        times.append(1e3 * (time.perf_counter() - start))
    fifths = statistics.quantiles(times, n=5)
    return {
        "first": times[0],
        "p20": fifths[0],
        "p50": statistics.median(times),
        "p80": fifths[3],
        "max": max(times),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=51)
    parser.add_argument("--out", type=Path, default=Path("runs/discover.jsonl"))
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    for name, build in MODELS.items():
        model = build()
        record: dict[str, Any] = {
            "model": name,
            "found": list(trainact.first_layers(build())),
            "structure_ms": measure(model, None, arguments.rounds),
            "followed_ms": measure(model, torch.zeros(1, 3, 224, 224), 11),
            **describe(torch.device("cpu")),
        }
        records.append(record)
        structure, followed = record["structure_ms"], record["followed_ms"]
        print(
            f"{name:28s} structure {structure['p50']:5.1f} ms (first call "
            f"{structure['first']:.1f}), followed {followed['p50']:5.0f} ms"
        )
    arguments.out.write_text("".join(json.dumps(r) + "\n" for r in records))


if __name__ == "__main__":
    main()
