"""How exact every way of training is: the largest errors that the tests' problems show.

python -m benchmarks.exactness --images FOLDER

One record for each way, problem and dtype. "Error" is the relative error of the
weight's gradient (or of its movement in five steps) to the float64 oracle, or to one
process that has the whole batch. FOLDER has one folder of images for each class.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import trainact
from tests.cases import oracle_gradient
from tests.distributed import problems, test_ddp, test_deferred_ranks, test_fsdp
from tests.distributed.processes import run
from tests.parity.table import LAYERS, WAYS
from tests.parity.test_ways import train
from tests.tolerances import relative_error
from trainact.lab.data import load_data
from trainact.lab.environment import describe

LAM = 0.1
SIZES = ([6, 6], [9, 3], [0, 12], [3, 0, 5, 4])

# First matching row of docs/ways-of-training.md, by what the way's name contains.
ROW_OF = {
    "deferred": "deferred",
    "GradScaler": "scaler",
    "autocast": "precision",
    "float": "precision",
    "checkpoint": "checkpoint",
    "compile": "compile",
    "func": "func",
    "ensemble": "func",
    "vmap": "func",
    "Averaged": "copies",
    "tied": "copies",
    "deepcopy": "copies",
}
OTHERWISE = "layouts"

STEMS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "3x3 conv, 27 entries": (lambda: nn.Conv2d(3, 16, 3, padding=1), 32),
    "4x4 patch, 48 entries": (lambda: nn.Conv2d(3, 16, 4, stride=4), 32),
    "16x16 patch, 768 entries": (lambda: nn.Conv2d(3, 16, 16, stride=16), 64),
}
NUM_IMAGES = 64


def ways() -> Iterator[dict[str, Any]]:
    """One process: every way of the table on PyTorch's own layers, to the oracle."""
    for name, way in WAYS.items():
        if way.settings:
            continue  # the page has no row for them
        row = next((r for part, r in ROW_OF.items() if part in name), OTHERWISE)
        for layer in filter(LAYERS.__contains__, way.layers):
            plain, x, _, after = train(name, LAYERS[layer])
            truth = oracle_gradient(plain, x, after.grad_z, LAM)
            yield {
                "row": row,
                "case": f"{name}: {layer}",
                "dtype": _name(way.work or way.dtype),
                "error": relative_error(after.weight, truth),
            }


def ranks() -> Iterator[dict[str, Any]]:
    """Real processes: five steps of R ranks against one process."""
    for sizes in SIZES:
        moves = {
            "ddp": run(len(sizes), test_ddp.train_all, sizes, True),
            "fsdp": run(len(sizes), test_fsdp.train_sharded, sizes, (len(sizes),)),
            "deferred": run(
                len(sizes), test_deferred_ranks.train_all, sizes, True, None
            ),
            "ddp, sync=False": run(len(sizes), test_ddp.train_all, sizes, False),
        }
        for kind, dtype in problems.ALL:
            truth = problems.train_alone(kind, dtype, sizes)
            for row, of_ranks in moves.items():
                errors = [relative_error(m[kind, dtype], truth) for m in of_ranks]
                yield {
                    "row": row,
                    "case": f"{kind}, samples by rank {sizes}",
                    "dtype": _name(dtype),
                    "error": max(errors),
                }


def micro_batches(images: Path) -> Iterator[dict[str, Any]]:
    """The gradient of k micro-batches of real images against the whole batch's."""
    pixels = load_data(f"imagefolder:{images}", Path(), limit=NUM_IMAGES).train_images
    whole = torch.as_tensor(pixels).double()
    for stem, (build, size) in STEMS.items():
        x = nn.functional.interpolate(whole, size=(size, size), mode="bilinear")
        x = (x - x.mean((0, 2, 3), True)) / x.std((0, 2, 3), keepdim=True)
        torch.manual_seed(0)
        layer = trainact.TrAct(build())
        truth = gradient(layer.double(), x, 1)
        for dtype in (torch.float64, torch.float32):
            for k in (1, 2, 4, 8, 16):
                settings = (layer.to(dtype), x.to(dtype), k)
                found = {"deferred": gradient(*settings, trainact.deferred)}
                name = "own statistics" if k > 1 else "whole batch"
                found[name] = gradient(*settings)
                for row, value in found.items():
                    yield {
                        "row": row,
                        "case": f"{stem}, {NUM_IMAGES} images in {k} micro-batches",
                        "dtype": _name(dtype),
                        "error": relative_error(value, truth),
                        "stem": stem,
                    }


def gradient(
    layer: Any, x: Tensor, k: int, deferred: Callable[..., Any] | None = None
) -> Tensor:
    """Of a mean over the batch, from k micro-batches."""
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer.zero_grad()
    generator = torch.Generator().manual_seed(1)
    shape = layer(x).shape
    aim = torch.randn(shape, generator=generator, dtype=torch.float64).to(x.dtype)

    def accumulate() -> None:
        for part in torch.arange(len(x)).chunk(k):
            loss = (layer(x[part]) - aim[part]).square().flatten(1).mean(1)
            (loss.sum() / (2 * len(x))).backward()

    if deferred is None:
        accumulate()
    else:
        with deferred(layer, optimizer):
            accumulate()
    return layer.weight.grad.clone()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/exactness.jsonl"))
    arguments = parser.parse_args()
    torch.use_deterministic_algorithms(True)
    setting = describe(torch.device("cpu"))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("w") as file:
        for measured in (ways(), ranks(), micro_batches(arguments.images)):
            for record in measured:
                file.write(json.dumps({**record, **setting}) + "\n")


if __name__ == "__main__":
    main()
