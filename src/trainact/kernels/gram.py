"""XᵀX of a batch's patches by Triton: launches, and how the work is cut.

The image is read in place, through any strides; the unfolded batch never exists, not
even in tiles. X is tall (10⁴ to 10⁷ rows, tens to hundreds of entries), so the rows are
split over programs. Each writes the sum of its own rows, in float64, to a workspace of
its own, and a second launch adds these in a fixed order: no atomics, the same bits at
every run.

Legend: G groups, P entries of a patch within one group, N rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from trainact.geometry import Geometry
from trainact.gram.matmul import BLOCK_ROWS
from trainact.gram.patches import batched, pad
from trainact.kernels.choice import INTERPRETED
from trainact.kernels.device import OPTIONS, on_device
from trainact.kernels.gram_kernels import add_splits, partial_products

# Partial sums may take this much memory, unless the result alone takes more.
WORKSPACE_BYTES = 64 * 2**20

# Programs per multiprocessor: enough to hide the latency of gathering.
PROGRAMS_PER_PROCESSOR = 4

# Without a device, so that tests split the rows too.
INTERPRETED_PROGRAMS = 8


@dataclass(frozen=True)
class Launch:
    """How the products are formed.

    Attributes:
        block_entries: P of one block; a power of two, at least 16.
        block_rows: rows of one tile; a power of two, at least 16, at most
            `trainact.gram.matmul.BLOCK_ROWS`.
        precision: of float32 operands, ``"ieee"`` or ``"tf32x3"`` (three products on
            tensor cores, as `trainact.gram.matmul.split_for_tf32`); half precision
            goes to the tensor cores as it is.
        num_warps: per program.
        num_stages: tiles in flight per program.
    """

    block_entries: int
    block_rows: int = 32
    precision: str = "ieee"
    num_warps: int = 4
    num_stages: int = 3


def default_launch(num_entries: int) -> Launch:
    """Blocks for a number of entries: not measured yet, see `benchmarks.kernels`.

    Both accumulators, float32 and float64, stay in registers (compiled for sm_80 and
    sm_90 at most 16 bytes a thread are spilled; blocks of 128 would spill hundreds).
    """
    block = min(64, max(16, triton.next_power_of_2(num_entries)))
    return Launch(block, num_warps=8 if block == 64 else 4)


@dataclass(frozen=True)
class Split:
    """How rows are divided.

    Attributes:
        num_splits: ranges of rows, each summed by programs of its own.
        chunks_per_split: float32 sums per range, added in float64.
        tiles_per_chunk: tiles of rows per float32 sum.
    """

    num_splits: int
    chunks_per_split: int
    tiles_per_chunk: int


def split_rows(num_rows: int, num_blocks: int, programs: int, launch: Launch) -> Split:
    """Divide the rows so that a device is full and the workspace bounded.

    ``num_blocks`` counts the pairs of entry blocks over all groups, ``programs`` those
    that the device should run.
    """
    num_tiles = triton.cdiv(num_rows, launch.block_rows)
    split_bytes = 8 * num_blocks * launch.block_entries**2
    wanted = min(programs // num_blocks, WORKSPACE_BYTES // split_bytes, num_tiles)
    tiles_per_split = triton.cdiv(num_tiles, max(1, wanted))
    tiles_per_chunk = min(tiles_per_split, BLOCK_ROWS // launch.block_rows)
    chunks_per_split = triton.cdiv(tiles_per_split, tiles_per_chunk)
    num_splits = triton.cdiv(num_tiles, chunks_per_split * tiles_per_chunk)
    return Split(num_splits, chunks_per_split, tiles_per_chunk)


def patch_products(
    x: Tensor, geometry: Geometry, launch: Launch | None = None
) -> Tensor:
    """Sum over a batch's rows of their outer products, XᵀX, in two launches.

    Of ``[..., C, *spatial]`` in float32, float16 or bfloat16 and any memory layout,
    ``[G, P, P]`` in float64; zeros for an empty batch.

    Cost: ``N * P**2 / 2`` multiplications per group, with P rounded up to whole blocks;
    a workspace of at most `WORKSPACE_BYTES`, or of one result. Border modes other than
    zeros copy the batch first.
    """
    x, problem = _canonical(x, geometry)
    size = (problem.groups, problem.num_entries, problem.num_entries)
    if x.numel() == 0:
        return x.new_zeros(size, dtype=torch.float64)
    result_GPP = x.new_empty(size, dtype=torch.float64)
    launch = launch or default_launch(problem.num_entries)
    with on_device(x):
        _launch(x, problem, launch, result_GPP)
    return result_GPP


@dataclass(frozen=True)
class _Problem:
    """A geometry in three spatial dimensions, the missing ones of size 1."""

    groups: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    out_size: tuple[int, ...]
    num_entries: int


def _canonical(x: Tensor, geometry: Geometry) -> tuple[Tensor, _Problem]:
    """A batch of volumes: vectors are the channels of a 1 x 1 x 1 volume."""
    one, none = (1, 1, 1), ((0, 0),) * 3
    x, padding = batched(x, geometry), geometry.padding
    out_size = geometry.output_size(x.shape[2:])
    if geometry.padding_mode != "zeros":
        x, padding = pad(x, geometry), none[: geometry.num_spatial]
    missing = 3 - geometry.num_spatial
    for _ in range(missing):
        x = x.unsqueeze(2)
    problem = _Problem(
        geometry.groups,
        one[:missing] + geometry.kernel_size,
        one[:missing] + geometry.stride,
        one[:missing] + geometry.dilation,
        none[:missing] + padding,
        one[:missing] + out_size,
        geometry.num_entries,
    )
    return x, problem


def _launch(x: Tensor, problem: _Problem, launch: Launch, result_GPP: Tensor) -> None:
    groups, size = problem.groups, problem.num_entries
    blocks = triton.cdiv(size, launch.block_entries)
    pairs = blocks * (blocks + 1) // 2
    out0, out1, out2 = problem.out_size
    split = split_rows(
        len(x) * out0 * out1 * out2, pairs * groups, _programs(x), launch
    )
    values = launch.block_entries**2
    partial = x.new_empty(split.num_splits, groups, pairs, values, dtype=torch.float64)
    image_stride, channel_stride, *strides = x.stride()
    _kernel(partial_products)[pairs, groups, split.num_splits](
        x,
        partial,
        len(x),
        problem.out_size,
        tuple(x.shape[2:]),
        image_stride,
        channel_stride * (x.shape[1] // groups),
        channel_stride,
        tuple(strides),
        groups,
        split.chunks_per_split,
        split.tiles_per_chunk,
        NUM_ENTRIES=size,
        KERNEL=problem.kernel,
        STRIDE=problem.stride,
        DILATION=problem.dilation,
        BEFORE=tuple(before for before, _ in problem.padding),
        PADDED=tuple(any(borders) for borders in problem.padding),
        NUM_BLOCKS=blocks,
        BLOCK_P=launch.block_entries,
        BLOCK_N=launch.block_rows,
        INDEX=tl.int32 if _span(x) < 2**31 else tl.int64,
        PRECISION=launch.precision,
        # Triton's interpreter multiplies the bits of bfloat16 as if they were integers.
        WIDEN=INTERPRETED and x.dtype == torch.bfloat16,
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
        **OPTIONS,
    )
    num_values = 32
    _kernel(add_splits)[pairs, values // num_values, groups](
        partial,
        result_GPP,
        groups,
        split.num_splits,
        NUM_ENTRIES=size,
        NUM_BLOCKS=blocks,
        BLOCK_P=launch.block_entries,
        NUM_VALUES=num_values,
        SPLITS_AT_ONCE=64,
        num_warps=4,
        **OPTIONS,
    )


def _kernel(function: Any) -> Any:
    """Triton's decorator has no types for what it returns."""
    return function


def _span(x: Tensor) -> int:
    """Distance in memory from the first to the last element."""
    return sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))


def _programs(x: Tensor) -> int:
    if not x.is_cuda:
        return INTERPRETED_PROGRAMS
    properties = torch.cuda.get_device_properties(x.device)
    return PROGRAMS_PER_PROCESSOR * properties.multi_processor_count
