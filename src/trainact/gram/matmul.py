r"""Products of matrices with many columns, in full precision, block by block.

Where the settings would round float32 operands, these are split into what the hardware
holds exactly and the rest, so that products keep float32's precision. Sums run over
1,024 or 2,048 columns in float32 (8,192 on accelerators, for many entries) and beyond
that in float64, so that millions of rows cost no accuracy. The product of a large
matrix with its own transpose is symmetric: a CPU computes only the blocks on and above
the diagonal.

Everything here is X transposed times X: columns are the rows of the unfolded batch.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from trainact.precision import product_dtype

# Measured on 2 CPU cores (3x3/1 at 128x32², 7x7/2, 16x16/8 and 16x16/16 at 16x224²):
# within 8 % of the best tile for each; 4 MiB is up to 24 % slower, and 16 MiB up to
# 110 % on one core.
TILE_BYTES = 8 * 2**20

# On an accelerator a launch costs more than a cache miss, so tiles are larger there.
ACCELERATOR_TILE_BYTES = 256 * 2**20

# Columns that one float32 sum may run over. Summing 116,000 positive products at once
# loses a digit more than eps; blocks of this size cost no time (measured, 9 to 768
# entries).
BLOCK_ROWS = 1024

# Above this many entries a matrix per block would be large: longer blocks, one by one.
BLOCK_ENTRIES = 256
LONG_BLOCK_ROWS = 2048
ACCELERATOR_BLOCK_ROWS = 8192

# Larger matrices are multiplied with themselves block by block. Measured on a CPU:
# 768 entries take 0.56, 384 take 0.65 and 147 take 0.83 of the full product's time.
SYMMETRIC_ENTRIES = 96

# A float32 has 23 stored mantissa bits, of which TF32 keeps 10.
TF32_DROPPED_BITS = 13

# Devices that multiply TF32 much faster than float64.
SPLIT_DEVICES = ("cuda",)

Parts = tuple[Tensor, ...]


def tile_bytes(x: Tensor) -> int:
    """How many bytes of the unfolded batch may exist at a time, by the device."""
    return TILE_BYTES if x.device.type == "cpu" else ACCELERATOR_TILE_BYTES


def operand_parts(x: Tensor, given: torch.dtype | None = None) -> Parts:
    r"""Split a factor of a product, float32 or float64, if the settings would round it.

    Into ``x`` itself; ``x`` in float64; or (H, L) with :math:`x = H + L`, where H is
    what TF32 holds exactly. ``given`` is the dtype that the entries had before: TF32
    holds those of 16 bits exactly.
    """
    dtype = product_dtype(x)
    if dtype == x.dtype:
        return (x,)
    if x.device.type not in SPLIT_DEVICES:
        return (x.to(dtype),)
    if given in (torch.bfloat16, torch.float16):
        return (x,)
    return split_for_tf32(x)


def split_for_tf32(x: Tensor) -> Parts:
    """Split float32 entries into what TF32 holds and the rest, at most 2^-11 of it."""
    bits = x.contiguous().view(torch.int32)
    half = 1 << (TF32_DROPPED_BITS - 1)
    high = ((bits + half) & -(1 << TF32_DROPPED_BITS)).view(torch.float32)
    return high, x - high


def parts_product(first: Parts, second: Parts) -> Tensor:
    r"""``[..., P, N]`` times the transpose of ``[..., Q, N]``, each given in parts.

    Of two parts each, :math:`HH'^\top + HL'^\top + LH'^\top`, which lacks only
    :math:`LL'^\top`, at most :math:`2^{-22}` of the whole.
    """
    high, low = first[0], first[1:]
    total = high @ second[0].mT
    if low:
        total = total + (high @ second[1].mT + low[0] @ second[0].mT)
    return total


def parts_self_product(parts: Parts) -> Tensor:
    """``[..., P, N]``, given in parts, times its own transpose; symmetric.

    Cost: 0.55 to 1 times ``P**2 * N`` multiplications, depending on P.
    """
    if len(parts) == 1:
        return _symmetric_product(parts[0])
    high, low = parts
    mixed = high @ low.mT
    return high @ high.mT + (mixed + mixed.mT)


def self_product(columns: Tensor, given: torch.dtype | None = None) -> Tensor:
    """``[..., P, N]`` times its own transpose, in the full precision of its dtype."""
    return parts_self_product(operand_parts(columns, given))


def sum_self_product(
    columns: Tensor, dtype: torch.dtype, given: torch.dtype | None = None
) -> Tensor:
    """``[G, P, N]`` times its own transpose, in blocks that are summed in ``dtype``."""
    if columns.shape[1] > BLOCK_ENTRIES:
        on_cpu = columns.device.type == "cpu"
        longest = LONG_BLOCK_ROWS if on_cpu else ACCELERATOR_BLOCK_ROWS
        products = (self_product(c, given) for c in columns.split(longest, dim=-1))
        return functools.reduce(Tensor.add_, products, next(products).to(dtype))
    blocks = columns.shape[-1] // BLOCK_ROWS
    if blocks < 2:
        return self_product(columns, given).to(dtype)
    whole, rest = columns.tensor_split([blocks * BLOCK_ROWS], dim=-1)
    stacked = whole.unflatten(-1, (blocks, BLOCK_ROWS)).movedim(-2, 1)
    return self_product(stacked, given).sum(1, dtype=dtype) + self_product(rest, given)


def _symmetric_product(columns: Tensor) -> Tensor:
    size = columns.shape[-2]
    # An accelerator is not filled by the blocks.
    if size <= SYMMETRIC_ENTRIES or columns.device.type != "cpu":
        return columns @ columns.mT
    upper, lower = columns.tensor_split(2, dim=-2)
    corner = upper @ lower.mT
    top = torch.cat([_symmetric_product(upper), corner], dim=-1)
    bottom = torch.cat([corner.mT, _symmetric_product(lower)], dim=-1)
    return torch.cat([top, bottom], dim=-2)
