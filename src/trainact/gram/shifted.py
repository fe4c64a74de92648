r"""XᵀX of overlapping patches from shifts of the image along one dimension.

Take a convolution over the lines of an image (`lines`), where a kernel's positions are
q = 0 ... Q steps ahead of the output line o. Unfold the other dimensions only. Then the
entry of XᵀX for the positions q and q + d is the sum of y[i] y'[i + d] over the lines
i = q ... q + O - 1, of which i = Q ... O - 1 are common to all q. So

1. the common lines' products with the same lines shifted by d, for which nothing is
   copied, serve all pairs: patches with T = Q + 1 times fewer entries, and T products;
2. the Q lines before and the Q lines after them are multiplied for each i and d alone;
3. a pair is one of 1 and those of 2 that lie in its range.

Everything is added, nothing subtracted: each entry is as exact as from explicit
patches, and no pixel enters that its patches do not hold. For every kernel, stride,
dilation, padding and number of dimensions, where there are at least Q output lines.

Legend: b images, n bands of their lines, G groups, N = b x n x G, Q lines that a kernel
reaches beyond its first, O output lines, o of a band, M entries of a line, W other
output positions, P entries of a patch.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainact.geometry import Geometry
from trainact.gram.lines import (
    SUM_ROWS,
    Layout,
    bands,
    copy_lines,
    make_layout,
    slabs,
)
from trainact.gram.matmul import (
    Parts,
    operand_parts,
    parts_product,
    parts_self_product,
)
from trainact.precision import accumulation_dtype


def shifted_products(x: Tensor, geometry: Geometry, dim: int) -> Tensor:
    """XᵀX by shifts along one dimension.

    Cost, per group: ``T * M**2`` multiplications for each output position and ``M``
    copied entries, where ``T * M`` is P rounded up to whole strides; and the border.

    Args:
        x: ``[B, C, *spatial]``.
        geometry: of the layer.
        dim: the spatial dimension to shift along, with at least Q outputs.

    Returns:
        b times A, ``[G, P, P]``, float64 (float32 on devices without it).
    """
    layout, wide = make_layout(geometry, dim), accumulation_dtype(x)
    groups, size, reach = geometry.groups, layout.line_entries, layout.num_border
    outputs = geometry.output_size(x.shape[2:])[dim]
    common = x.new_zeros(reach + 1, groups, size, size, dtype=wide)
    before = x.new_zeros(reach, groups, size, 2 * reach, size, dtype=wide)
    after = x.new_zeros(reach, groups, size, reach, size, dtype=wide)
    for view in slabs(x, geometry, layout) if len(x) else ():
        axis = view.ndim - geometry.num_spatial
        for lines in bands(view.narrow(axis, reach, outputs), geometry, layout):
            parts = operand_parts(lines.flatten(0, 2), given=x.dtype)
            for shift in layout.shifts:
                products = _shift_products(parts, shift, layout)
                products = products.unflatten(0, (-1, groups)).sum(0, dtype=wide)
                common[shift, ..., : products.shape[-1]] += products
        for border, start in ((before, 0), (after, outputs)) if reach else ():
            strip = view.narrow(axis, start, border.shape[-2]).unsqueeze(1)
            lines = copy_lines(strip, geometry, layout).squeeze(1)
            border.add_(_border_products(lines, reach, wide, x.dtype))
    return _all_pairs(common, before, after, geometry, layout)


def _shift_products(parts: Parts, shift: int, layout: Layout) -> Tensor:
    """Lines times shifted lines, ``[N, M, M']``, from parts ``[N, M, o + Q, W]``."""
    outputs = parts[0].shape[2] - layout.num_border
    first = tuple(p.narrow(2, 0, outputs).flatten(2) for p in parts)
    if shift == 0:
        return parts_self_product(first)
    second = tuple(p.narrow(2, shift, outputs).flatten(2) for p in parts)
    if shift == layout.num_border:
        # The last step is met by its own phases only, which come first. The smaller
        # matrix on the left is a third faster in MKL.
        second = tuple(p[:, : layout.last_entries] for p in second)
        return parts_product(second, first).mT
    return parts_product(first, second)


def _border_products(
    lines: Tensor, reach: int, dtype: torch.dtype, given: torch.dtype
) -> Tensor:
    """Products of Q lines with these and the following, ``[Q, G, M, lines, M]``."""
    _, groups, size, height, _ = lines.shape
    columns = lines.permute(1, 3, 2, 0, 4).flatten(3).flatten(1, 2)
    total = columns.new_zeros(groups, reach * size, height * size, dtype=dtype)
    for some in columns.split(SUM_ROWS, dim=-1):
        parts = operand_parts(some, given)
        total += parts_product(tuple(p[:, : reach * size] for p in parts), parts)
    return total.view(groups, reach, size, height, size).transpose(0, 1)


def _all_pairs(
    common: Tensor, before: Tensor, after: Tensor, geometry: Geometry, layout: Layout
) -> Tensor:
    """Every pair of kernel positions (q, q + d).

    Args:
        common: sums over the lines that all pairs have, ``[Q + 1, G, M, M']`` by d.
        before: products of the Q lines before them, ``[Q, G, M, 2Q, M']`` by line.
        after: products of the Q lines after them, ``[Q, G, M, Q, M']``.
        geometry: of the layer.
        layout: of its kernel along one dimension.

    Returns:
        b times A, ``[G, P, P]``.
    """
    reach = layout.num_border
    ahead, behind = (x.permute(0, 3, 1, 2, 4) for x in (before, after))
    heads = [torch.zeros_like(common)]  # of q = Q, Q - 1, ... 0, for every d
    for q in reversed(range(reach)):
        heads.append(heads[-1] + ahead[q, q : q + reach + 1])
    rows: list[Tensor] = []  # of q = 0, 1, ... Q, for d up to Q - q
    tail = torch.zeros_like(common)
    for q, head in enumerate(reversed(heads)):
        if q > 0:
            tail = tail[:-1] + behind[q - 1, q - 1 :]
        rows.append(common[: len(tail)] + head[: len(tail)] + tail)
    pairs = torch.cat(rows).transpose(0, 1).reshape(geometry.groups, -1)
    index = torch.from_numpy(_entry_index(geometry, layout)).to(pairs.device)
    return pairs[:, index]


@lru_cache(maxsize=4)
def _entry_index(geometry: Geometry, layout: Layout) -> Any:
    """Where the product of two entries of a patch is among ``[pairs, M, M']``."""
    # In NumPy: what torch makes inside a mode (fake or meta tensors) must not be kept.
    channels = geometry.channels // geometry.groups
    channel_P, *kernel = np.indices((channels, *geometry.kernel_size)).reshape(
        1 + geometry.num_spatial, -1
    )
    positions = kernel.pop(layout.dim)
    sizes = [s for d, s in enumerate(geometry.kernel_size) if d != layout.dim]
    step_P = np.array(layout.steps)[positions]
    line_P = np.array(layout.phases)[positions] * channels + channel_P
    for size, position in zip(sizes, kernel, strict=True):
        line_P = line_P * size + position
    # Pairs with q > q' are the mirror images of those that are kept.
    is_ahead = step_P[:, None] > step_P[None, :]
    first_step, second_step = _ordered(step_P, is_ahead)
    first_line, second_line = _ordered(line_P, is_ahead)
    count, size = layout.num_border + 1, layout.line_entries
    pair_PP = first_step * count - first_step * (first_step - 1) // 2
    pair_PP += second_step - first_step
    return (pair_PP * size + first_line) * size + second_line


def _ordered(value_P: Any, is_swapped: Any) -> tuple[Any, Any]:
    first, second = value_P[:, None], value_P[None, :]
    return np.where(is_swapped, second, first), np.where(is_swapped, first, second)
