"""How exact the weight's gradient is on pixels of any scale, the input's beside it.

python -m benchmarks.input_gradients --images FOLDER

One record for each stem, scale and precision: the relative error of the gradient to the
float64 solution at the λ that was set. The 16x16 patch embedding has fewer rows than
entries and an input that needs a gradient; the 7x7 stem has many rows.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import trainact
from benchmarks.output import write_records
from trainact.geometry import layer_geometry
from trainact.gram.patches import extract_patches
from trainact.lab.data import load_data
from trainact.lab.environment import describe

LAM = 0.1
CHANNEL = (0, 2, 3)
SCALES: dict[str, Callable[[Tensor], Tensor]] = {
    "standardised": lambda x: (
        (x - x.mean(CHANNEL, True)) / x.std(CHANNEL, keepdim=True)
    ),
    "[0, 1]": lambda x: x / 255,
    "[0, 255]": lambda x: x,
}


def measure(images: Tensor) -> Iterator[dict[str, Any]]:
    """Every stem on every scale.

    Args:
        images: pixels in [0, 255], ``[B, 3, 64, 64]``.

    Yields:
        Records.
    """
    torch.manual_seed(0)
    embedding = nn.Conv2d(3, 64, 16, stride=16)
    stem = nn.Conv2d(3, 64, 7, stride=2, padding=3)
    for scale, change in SCALES.items():
        for bf16 in (False, True):
            yield record("16x16 patches", embedding, change(images[:8]), scale, bf16)
        yield record("7x7 stem", stem, change(images), scale, bf16=False)


def record(
    name: str, plain: nn.Conv2d, x: Tensor, scale: str, bf16: bool
) -> dict[str, Any]:
    """The error of one backward pass; the patch embedding's input has a gradient."""
    layer: Any = trainact.TrAct(copy.deepcopy(plain), LAM)
    leaf = x.clone()
    leaf.requires_grad_("patches" in name)
    with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
        z = layer(leaf)
    grad_z = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    z.backward(grad_z.to(z.dtype))
    rows_NP = extract_patches(x.double(), layer_geometry(plain))[0]
    gram_PP = rows_NP.mT @ rows_NP / len(rows_NP)
    rounded = grad_z.to(z.dtype).double().movedim(1, -1).reshape(len(rows_NP), -1)
    damped_PP = gram_PP + LAM * torch.eye(len(gram_PP), dtype=torch.float64)
    truth = torch.linalg.solve(damped_PP, rows_NP.mT @ rounded).mT
    error = (layer.weight.grad.double().flatten(1) - truth).norm() / truth.norm()
    acting = trainact.diagnostics.diagnose(layer, x, grad_z).lam
    return {
        "stem": name,
        "scale": scale,
        "precision": "bf16 autocast" if bf16 else "float32",
        "rows": len(rows_NP),
        "entries": len(gram_PP),
        "error": float(error),
        "lam": acting,
    }


def main() -> None:
    """Measure and write the records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    pixels = load_data(f"imagefolder:{arguments.images}", Path(), limit=64).train_images
    warnings.simplefilter("always", trainact.DampingWarning)
    setting = describe(torch.device("cpu"))
    records = measure(torch.as_tensor(pixels).float())
    write_records(({**each, **setting} for each in records), arguments.out)


if __name__ == "__main__":
    main()
