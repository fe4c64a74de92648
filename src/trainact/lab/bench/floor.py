r"""What the layer's extra work must cost at least, at this machine's measured ceilings.

Reading x once at the bandwidth of a copy, or the products of a symmetric b x n x n
matrix product, :math:`b n (n + 1)` operations, at the rate of a large square product,
whichever takes longer; and then one float32 Cholesky factorisation and its solution.
For overlapping patches the entries of A repeat each other, so that an algorithm which
uses this needs fewer operations: it may come out below 1.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from trainact.lab.bench.timing import timed
from trainact.lab.bench.workload import Action

COPY_BYTES = {"cpu": 2**28, "cuda": 2**31}
MATMUL_SIZE = {"cpu": 2048, "cuda": 8192}
REPEATS = 7


@dataclass(frozen=True)
class Ceilings:
    """What the machine does at most.

    Attributes:
        bytes_per_s: read, in a copy (which writes as many).
        flops: float32 operations per second, in a square product.
    """

    bytes_per_s: float
    flops: float


@dataclass(frozen=True)
class Floor:
    """Seconds that the layer's extra work needs at least.

    Attributes:
        read_s: x read once.
        product_s: of the symmetric product.
        factor_s: factorisation and solution.
    """

    read_s: float
    product_s: float
    factor_s: float

    @property
    def seconds(self) -> float:
        """Reading and multiplying overlap; the factorisation follows."""
        return max(self.read_s, self.product_s) + self.factor_s


@functools.cache
def measure_ceilings(device: torch.device) -> Ceilings:
    """Measure once for each device and process.

    Args:
        device: which.

    Returns:
        The best of a few repetitions.
    """
    source = torch.ones(COPY_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    size = MATMUL_SIZE[device.type]
    square = torch.ones(size, size, device=device)
    product = torch.empty_like(square)
    copying = _best(lambda: target.copy_(source), device)
    multiplying = _best(lambda: torch.mm(square, square, out=product), device)
    # A copy reads and writes: its traffic is twice its size.
    return Ceilings(2 * source.nbytes / copying, 2 * size**3 / multiplying)


def find_floor(
    input_bytes: int, rows: int, weight: tuple[int, int, int], device: torch.device
) -> Floor:
    """Work out the floor of a layer.

    Args:
        input_bytes: of x.
        rows: b; with fewer rows than entries the products are those of the b x b form.
        weight: groups, outputs of a group, entries.
        device: where.

    Returns:
        The parts of the floor.
    """
    ceilings = measure_ceilings(device)
    groups, outputs, entries = weight
    small, large = sorted((rows, entries))
    damped_GSS = torch.eye(small, device=device).expand(groups, -1, -1).contiguous()
    grad_GSO = torch.ones(groups, small, outputs, device=device)

    def solve() -> None:
        root_GSS, _ = torch.linalg.cholesky_ex(damped_GSS)
        torch.cholesky_solve(grad_GSO, root_GSS)

    return Floor(
        read_s=input_bytes / ceilings.bytes_per_s,
        product_s=groups * large * small * (small + 1) / ceilings.flops,
        factor_s=_best(solve, device),
    )


def _best(action: Action, device: torch.device) -> float:
    action()
    return min(timed(action, device) for _ in range(REPEATS))
