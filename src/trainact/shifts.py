r"""XᵀX of overlapping patches from shifts of the image along one dimension.

Take a convolution over the lines of an image (`lines`), where a kernel's positions are
q = 0 ... Q steps ahead of the output line o. Unfold the other dimensions only. Then an
entry of XᵀX is a sum over o of y[o + q] y'[o + q'], and depends on the shift q' - q
alone, but for the borders: from (q, q') to (q + 1, q' + 1) one line of products leaves
the sum and one enters. So

1. the pairs (0, q') are products of the lines with the same lines shifted, for which
   nothing is copied: patches with T = Q + 1 times fewer entries, and T products;
2. what leaves and enters is the products of the first and the last Q lines;
3. every other pair follows from the one before it by adding what 2 says.

Exact for every kernel, stride, dilation, padding and number of dimensions.

Legend: b images of a piece, n bands of their lines, G groups, N = b x n x G, Q lines
that a kernel reaches beyond its first, o output lines of a band, M entries of a line, W
other output positions, P entries of a patch.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from trainact.geometry import Geometry
from trainact.lines import Layout, make_layout, pieces
from trainact.precision import accumulation_dtype
from trainact.products import (
    Parts,
    operand_parts,
    parts_product,
    parts_self_product,
    sum_self_product,
)


def shifted_products(x: Tensor, geometry: Geometry, dim: int) -> Tensor:
    """XᵀX by shifts along one dimension.

    Cost, per group: ``T * M**2`` multiplications for each output position and ``M``
    copied entries, where ``T * M`` is P rounded up to whole strides; and the border.

    Args:
        x: ``[B, C, *spatial]``.
        geometry: of the layer.
        dim: the spatial dimension to shift along.

    Returns:
        b times A, ``[G, P, P]``, float64 (float32 on devices without it).
    """
    layout, wide = make_layout(geometry, dim), accumulation_dtype(x)
    groups, size, reach = geometry.groups, layout.line_entries, layout.num_border
    by_shift = x.new_zeros(reach + 1, groups, size, size, dtype=wide)
    border = x.new_zeros(groups, size * reach, size * reach, dtype=wide)
    for piece in pieces(x, geometry, layout) if len(x) else ():
        parts = operand_parts(piece.bands.flatten(0, 2), given=x.dtype)
        for shift in layout.shifts:
            products = _shift_products(parts, shift, layout)
            products = products.unflatten(0, (-1, groups)).sum(0, dtype=wide)
            by_shift[shift, ..., : products.shape[-1]] += products
        if reach and piece.has_last:
            last = piece.bands[:, -1, ..., -reach:, :]
            border += _border_products(last, wide, x.dtype)
        if reach and piece.has_first:
            first = piece.bands[:, 0, ..., :reach, :]
            border -= _border_products(first, wide, x.dtype)
    return _all_pairs(by_shift, border, geometry, layout)


def _shift_products(parts: Parts, shift: int, layout: Layout) -> Tensor:
    """Lines times shifted lines, ``[N, M, M']``, from parts ``[N, M, o + Q, W]``."""
    outputs = parts[0].shape[2] - layout.num_border
    first = tuple(p.narrow(2, 0, outputs).flatten(2) for p in parts)
    if shift == 0:
        return parts_self_product(first)
    second = tuple(p.narrow(2, shift, outputs).flatten(2) for p in parts)
    if shift == layout.num_border:
        second = tuple(p[:, : layout.last_entries] for p in second)
    return parts_product(first, second)


def _border_products(lines: Tensor, dtype: torch.dtype, given: torch.dtype) -> Tensor:
    """Products of Q lines with each other, ``[G, Q x M, Q x M]``."""
    columns = lines.permute(1, 3, 2, 0, 4).flatten(3).flatten(1, 2)
    return sum_self_product(columns, dtype, given)


def _all_pairs(
    by_shift: Tensor, border: Tensor, geometry: Geometry, layout: Layout
) -> Tensor:
    """Every pair of kernel positions from the first ones and the borders.

    Args:
        by_shift: products of (0, q'), ``[Q + 1, G, M, M']``.
        border: products of lines that enter minus those that leave, ``[G, QM, QM]``.
        geometry: of the layer.
        layout: of its kernel along one dimension.

    Returns:
        b times A, ``[G, P, P]``.
    """
    groups, size, reach = geometry.groups, layout.line_entries, layout.num_border
    changes = border.view(groups, reach, size, reach, size).permute(1, 3, 0, 2, 4)
    rows = [by_shift]  # of pairs (q, q') with q' >= q
    for q in range(reach):
        rows.append(rows[-1][:-1] + changes[q, q:])
    pairs = torch.cat(rows).transpose(0, 1)
    return pairs.reshape(groups, -1)[:, _entry_index(geometry, layout, pairs.device)]


@lru_cache
def _entry_index(geometry: Geometry, layout: Layout, device: torch.device) -> Tensor:
    """Where the product of two entries of a patch is among ``[pairs, M, M']``."""
    channels = geometry.channels // geometry.groups
    shape = (channels, *geometry.kernel_size)
    entries = torch.cartesian_prod(*map(torch.arange, shape)).view(-1, len(shape))
    positions = entries[:, 1 + layout.dim]
    step_P = torch.tensor(layout.steps)[positions]
    line_P = torch.tensor(layout.phases)[positions] * channels + entries[:, 0]
    for dim, size in enumerate(geometry.kernel_size):
        if dim != layout.dim:
            line_P = line_P * size + entries[:, 1 + dim]
    # Pairs with q > q' are the mirror images of those that are kept.
    is_ahead = step_P[:, None] > step_P[None, :]
    first_step, second_step = _ordered(step_P, is_ahead)
    first_line, second_line = _ordered(line_P, is_ahead)
    count = layout.num_border + 1
    before = first_step * count - first_step * (first_step - 1) // 2
    pair_PP = before + second_step - first_step
    size = layout.line_entries
    return ((pair_PP * size + first_line) * size + second_line).to(device)


def _ordered(value_P: Tensor, is_swapped: Tensor) -> tuple[Tensor, Tensor]:
    first, second = value_P[:, None], value_P[None, :]
    return (
        torch.where(is_swapped, second, first),
        torch.where(is_swapped, first, second),
    )
