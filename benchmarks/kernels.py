"""TrAct's own operations alone: Triton kernels against PyTorch's operators.

    python -m benchmarks.kernels [--rounds 20] [--cases ...] [--out FILE]

One round runs every candidate once, in a random order. Reported: median and quartiles
of the time between two events on the device; what the profiler counts (launches, time
that the device was busy); the floor, which is the larger of reading x once at the
measured bandwidth and of the symmetric product's multiplications at the measured rate
of matrix products in the dtype; the distance to it. A candidate whose error is beyond
the tests' tolerance gets no time. ``--smoke`` runs tiny shapes once, on the CPU under
Triton's interpreter (TRITON_INTERPRET=1): its times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.operations import Ceilings, Run, compare, measure_ceilings
from tests.tolerances import GRAM_EPS, SAFETY
from trainact import kernels
from trainact.damping import Damping
from trainact.factor import factorise
from trainact.geometry import Geometry, make_geometry
from trainact.gram.patches import extract_patches
from trainact.gram.route import compute_gram
from trainact.gram.shifted import shifted_gram
from trainact.kernels.choice import INSTALLED, Backend
from trainact.lab.environment import describe

EPS = torch.finfo(torch.float32).eps
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
INVERSE_ENTRIES = (27, 48, 64, 128)
DAMPING = Damping(0.1)


@dataclass(frozen=True)
class Stem:
    """The first layer of one of the paper's settings; one value per dimension."""

    shape: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]

    @property
    def geometry(self) -> Geometry:
        return make_geometry(
            self.shape[1], self.kernel, self.stride, self.padding, 1, 1, "zeros",
            num_spatial=len(self.kernel),
        )  # fmt: skip

    def shrunk(self) -> Stem:
        """Of the same kind, small enough for an interpreter."""
        return Stem(
            (1, 1) + (9,) * len(self.kernel),
            tuple(min(size, 3) for size in self.kernel),
            tuple(min(size, 3) for size in self.stride),
            self.padding,
        )


STEMS = {
    "resnet18-cifar-b128": Stem((128, 3, 32, 32), (3, 3), (1, 1), (1, 1)),
    "vit-cifar-b128": Stem((128, 3, 32, 32), (4, 4), (4, 4), (0, 0)),
    "resnet50-224-b256": Stem((256, 3, 224, 224), (7, 7), (2, 2), (3, 3)),
    "deit-224-b256": Stem((256, 3, 224, 224), (16, 16), (16, 16), (0, 0)),
    "vgg-600x800-b1": Stem((1, 3, 600, 800), (3, 3), (1, 1), (1, 1)),
    "video-2x16x16-b8": Stem((8, 3, 16, 224, 224), (2, 16, 16), (2, 16, 16), (0, 0, 0)),
    "audio-b16": Stem((16, 1, 160_000), (10,), (5,), (0,)),
}


def product_candidates(x: Tensor, geometry: Geometry) -> dict[str, Run]:
    """Ways to form XᵀX, the first one being what trainact does without a kernel."""

    def unfold() -> Tensor:
        rows_GNP = extract_patches(x, geometry).float()
        return rows_GNP.mT @ rows_GNP

    candidates: dict[str, Run] = {
        "library": lambda: compute_gram(x, geometry),
        "explicit unfold": unfold,
    }
    for dim, size in enumerate(geometry.kernel_size):
        if size > geometry.stride[dim]:
            candidates[f"shifts along {dim}"] = lambda dim=dim: shifted_gram(
                x, geometry, dim
            )
    if INSTALLED:
        from trainact.kernels import gram

        for launch in launches(x, geometry):
            name = (
                f"triton {launch.block_entries}x{launch.block_rows} "
                f"{launch.precision} w{launch.num_warps} s{launch.num_stages}"
            )
            candidates[name] = lambda launch=launch: gram.patch_products(
                x, geometry, launch
            )
    return candidates


def launches(x: Tensor, geometry: Geometry) -> Iterator[Any]:
    """A handful of block sizes and precisions for the kernel."""
    from trainact.kernels.gram import Launch, default_launch

    default = default_launch(geometry.num_entries)
    block, warps = default.block_entries, default.num_warps
    yield default
    yield Launch(block, 64, num_warps=warps, num_stages=2)
    if x.dtype == torch.float32 and torch.version.hip is None:
        yield Launch(block, 32, "tf32x3", warps)
        yield Launch(block, 64, "tf32x3", warps, num_stages=2)
    elif x.dtype != torch.float32:
        yield Launch(block, 128, num_warps=warps, num_stages=2)
    if geometry.num_entries > 64:
        yield Launch(128, 32, num_warps=16)


def inverse_candidates(products: Tensor, num_rows: int) -> dict[str, Run]:
    """Ways to invert A + λI."""

    def run(backend: Backend) -> Run:
        def inverse() -> Tensor:
            with kernels.use(inverse=backend):
                return factorise(
                    products, DAMPING, torch.float32, num_rows=num_rows
                ).inner

        return inverse

    triton = {"triton": run("triton")} if INSTALLED else {}
    return {"library": run("library"), **triton}


def gram_error(truth: Tensor) -> Callable[[Tensor], float]:
    """Largest error of an entry, relative to the lengths of its two columns."""
    lengths = truth.diagonal(dim1=-2, dim2=-1).sqrt()
    scale = lengths[..., None] * lengths[..., None, :]
    return lambda found: ((found - truth).abs() / scale).max().item()


def measure_products(
    name: str, dtype: str, arguments: argparse.Namespace, ceilings: Ceilings
) -> Iterator[dict[str, Any]]:
    """One stem and dtype."""
    stem, device = STEMS[name], torch.device(arguments.device)
    if arguments.smoke:
        stem = stem.shrunk()
    geometry = stem.geometry
    torch.manual_seed(0)
    x = torch.randn(stem.shape, device=device).to(DTYPES[dtype])
    num_rows = geometry.num_rows(x.shape)
    size = geometry.num_entries
    floor = {
        "bytes_ms": 1e3 * x.numel() * x.element_size() / ceilings.bytes_per_second,
        "products_ms": 1e3 * num_rows * size * (size + 1) / 2
        / ceilings.products_per_second[dtype],
    }  # fmt: skip
    error_of = gram_error(compute_gram(x.double(), geometry))
    candidates = product_candidates(x, geometry)
    for record in compare(
        candidates, error_of, GRAM_EPS * EPS, arguments.rounds, device
    ):
        if "ms" in record:
            record["distance"] = record["ms"]["median"] / max(floor.values())
        yield {
            "operation": "products",
            "case": name,
            "dtype": dtype,
            "shape": list(stem.shape),
            "rows": num_rows,
            "entries": size,
            "floor": floor,
            **record,
        }


def measure_inverse(
    size: int, arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """One number of entries."""
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    rows = torch.randn(8 * size, size, device=device, dtype=torch.float64) + 0.5
    products = (rows.mT @ rows)[None]
    eye = torch.eye(size, dtype=torch.float64, device=device)
    truth = torch.linalg.inv(products / len(rows) + DAMPING.lam * eye)
    trace = products.diagonal(dim1=-2, dim2=-1).sum().item() / len(rows)
    kappa = 1 + trace / DAMPING.lam
    wide = torch.finfo(torch.float64).eps * kappa

    def error_of(found: Tensor) -> float:
        return ((found - truth).norm() / truth.norm()).item()

    candidates = inverse_candidates(products, len(rows))
    tolerance = SAFETY * max(EPS, wide)
    for record in compare(candidates, error_of, tolerance, arguments.rounds, device):
        yield {"operation": "inverse", "case": f"{size} entries", "dtype": "float32",
               "entries": size, **record}  # fmt: skip


def show(record: dict[str, Any]) -> None:
    """One line."""
    head = f"{record['case']:20s} {record['dtype']:9s} {record['candidate']:28s}"
    tail = f"error {record['error']:.1e}"
    if "ms" not in record:
        print(f"{head} refused: {tail} beyond {record['tolerance']:.1e}")
        return
    ms = record["ms"]
    distance = record.get("distance", math.nan)
    print(
        f"{head} {ms['median']:9.4f} ms [{ms['p25']:.4f}, {ms['p75']:.4f}]  "
        f"busy {record['device_ms']}  launches {record['launches']}  "
        f"{distance:6.1f} x floor  {tail}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="*", default=list(STEMS), choices=list(STEMS))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/kernels.jsonl"))
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.device, arguments.rounds = "cpu", 2
    if not INSTALLED:
        print("no kernels: Triton is not installed")
    device = torch.device(arguments.device)
    torch.set_float32_matmul_precision("highest")
    ceilings = measure_ceilings(device, DTYPES, arguments.smoke)
    setting = {"ceilings": asdict(ceilings), **describe(device)}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("w") as file:
        for record in records(arguments, ceilings):
            file.write(json.dumps({**record, **setting}) + "\n")
            file.flush()
            show(record)


def records(
    arguments: argparse.Namespace, ceilings: Ceilings
) -> Iterator[dict[str, Any]]:
    for name in arguments.cases:
        for dtype in DTYPES:
            yield from measure_products(name, dtype, arguments, ceilings)
    for size in INVERSE_ENTRIES:
        yield from measure_inverse(size, arguments)


if __name__ == "__main__":
    main()
