"""XᵀX by tiles and by shifts along each dimension; what the choice loses.

    python -m benchmarks.gram [--rounds 7] [--settings ...] [--out FILE]

Each round runs every way once; milliseconds are medians over rounds. `loss` is the time
of the way that `trainact.gram.cost` chooses over that of the best.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.output import write_records
from trainact.geometry import Geometry, make_geometry
from trainact.gram.cost import cheapest_dim
from trainact.gram.shifted import make_layout, shifted_gram
from trainact.gram.tiled import tiled_gram
from trainact.lab.environment import describe

# name -> (input, kernel_size, stride, padding, dilation, groups)
Setting = tuple[tuple[int, ...], Any, Any, Any, Any, int]
SETTINGS: dict[str, Setting] = {
    "ResNet-18 CIFAR": ((128, 3, 32, 32), 3, 1, 1, 1, 1),
    "ResNet-18 CIFAR b16": ((16, 3, 32, 32), 3, 1, 1, 1, 1),
    "ResNet-18 CIFAR b1": ((1, 3, 32, 32), 3, 1, 1, 1, 1),
    "ViT-CIFAR": ((128, 3, 32, 32), 4, 4, 0, 1, 1),
    "ResNet-50": ((16, 3, 224, 224), 7, 2, 3, 1, 1),
    "ResNet-50 b1": ((1, 3, 224, 224), 7, 2, 3, 1, 1),
    "ResNet 160 px": ((16, 3, 160, 160), 7, 2, 3, 1, 1),
    "DeiT-S": ((16, 3, 224, 224), 16, 16, 0, 1, 1),
    "AlexNet": ((16, 3, 224, 224), 11, 4, 2, 1, 1),
    "EfficientNet": ((16, 3, 224, 224), 3, 2, 1, 1, 1),
    "ConvNeXt": ((16, 3, 224, 224), 4, 4, 0, 1, 1),
    "CvT 7x7/4": ((16, 3, 224, 224), 7, 4, 2, 1, 1),
    "overlapping 16x16/8": ((16, 3, 224, 224), 16, 8, 0, 1, 1),
    "overlapping 16x16/10": ((8, 3, 224, 224), 16, 10, 0, 1, 1),
    "4x4/2 CIFAR": ((128, 3, 32, 32), 4, 2, 1, 1, 1),
    "VGG 600x800": ((1, 3, 600, 800), 3, 1, 1, 1, 1),
    "SAM-like 16x16": ((1, 3, 512, 512), 16, 16, 0, 1, 1),
    "MNIST 5x5": ((64, 1, 28, 28), 5, 1, 2, 1, 1),
    "digits 3x3": ((64, 1, 8, 8), 3, 1, 1, 1, 1),
    "dilated 3x3": ((16, 3, 64, 64), 3, 1, 2, 2, 1),
    "dilated 5x5/2": ((16, 3, 96, 96), 5, 2, 6, 3, 1),
    "dilated by 12": ((4, 3, 128, 128), 3, 1, 12, 12, 1),
    "signal dilated by 64": ((8, 3, 16000), 3, 1, 64, 64, 1),
    "signal dilated by 500": ((8, 3, 160000), 3, 1, 500, 500, 1),
    "small maps 3x3": ((512, 64, 8, 8), 3, 1, 1, 1, 1),
    "large 9x9": ((4, 3, 128, 128), 9, 1, 4, 1, 1),
    "hyperspectral 3x3": ((4, 100, 32, 32), 3, 1, 1, 1, 1),
    "grouped 3x3": ((16, 6, 64, 64), 3, 1, 1, 1, 3),
    "depthwise 5x5": ((8, 12, 56, 56), 5, 1, 2, 1, 12),
    "features 3x3": ((8, 64, 28, 28), 3, 1, 1, 1, 1),
    "1x1": ((16, 3, 64, 64), 1, 1, 0, 1, 1),
    "wide 1x25": ((8, 1, 40, 1000), (1, 25), 1, 0, 1, 1),
    "tall 25x1": ((8, 1, 1000, 40), (25, 1), 1, 0, 1, 1),
    "r3d 3x7x7": ((2, 3, 8, 112, 112), (3, 7, 7), (1, 2, 2), (1, 3, 3), 1, 1),
    "tubelets 2x16x16": ((1, 3, 8, 112, 112), (2, 16, 16), (2, 16, 16), 0, 1, 1),
    "volume 3x3x3": ((1, 1, 64, 64, 64), 3, 1, 1, 1, 1),
    "volume 4 channels 3x3x3": ((1, 4, 48, 48, 48), 3, 1, 1, 1, 1),
    "wav2vec 10/5": ((8, 1, 80000), 10, 5, 0, 1, 1),
    "raw audio 80/4": ((8, 1, 32000), 80, 4, 38, 1, 1),
    "Whisper 80x3": ((4, 80, 3000), 3, 1, 1, 1, 1),
    "EEG 64/1": ((16, 22, 500), 64, 1, 0, 1, 1),
}


def read(name: str) -> tuple[tuple[int, ...], Geometry]:
    """A setting's input shape and geometry."""
    shape, kernel, stride, padding, dilation, groups = SETTINGS[name]
    geometry = make_geometry(
        shape[1], kernel, stride, padding, dilation, groups, "zeros", len(shape) - 2
    )
    return shape, geometry


def ways(
    shape: tuple[int, ...], geometry: Geometry
) -> dict[str, Callable[[], torch.Tensor]]:
    """The ways to a setting's XᵀX."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = {"tiles": lambda: tiled_gram(x, geometry)}
    outputs = geometry.output_size(shape[2:])
    for dim, size in enumerate(geometry.kernel_size):
        if size > 1 and make_layout(geometry, dim).num_border <= outputs[dim]:
            result[f"dim {dim}"] = lambda d=dim: shifted_gram(x, geometry, d)
    return result


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Milliseconds of each way, and which one is chosen."""
    shape, geometry = read(name)
    dim = cheapest_dim(geometry, shape, "cpu")
    candidates = ways(shape, geometry)
    seconds: dict[str, list[float]] = {way: [] for way in candidates}
    for run in candidates.values():
        run()
    for _ in range(rounds):
        for way, run in candidates.items():
            start = time.process_time()
            run()
            seconds[way].append(time.process_time() - start)
    medians = {way: 1e3 * statistics.median(own) for way, own in seconds.items()}
    return {
        "setting": name,
        "shape": shape,
        "geometry": asdict(geometry),
        "ms": medians,
        "chosen": "tiles" if dim is None else f"dim {dim}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    origin = describe(torch.device("cpu"))
    records: list[dict[str, Any]] = []
    for name in arguments.settings:
        record = measure(name, arguments.rounds)
        best = min(record["ms"].values())
        loss = record["ms"][record["chosen"]] / best
        times = "  ".join(f"{way} {ms:8.3f}" for way, ms in record["ms"].items())
        print(f"{name:24s} {record['chosen']:6s} loss {loss:.2f}  {times}", flush=True)
        records.append({**record, **origin})
    if arguments.out:
        write_records(records, arguments.out)


if __name__ == "__main__":
    main()
