r"""XᵀX of overlapping patches from shifts of the image along one dimension.

Take a convolution over the lines of an image, where a kernel's positions are
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

Legend: b images, n bands of their lines, G groups, N = b x n x G, T steps of a kernel,
Q = T - 1 lines that it reaches beyond its first, O output lines, o of a band, M entries
of a line (phases x C / G x other kernel positions), W other output positions, P entries
of a patch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from trainact.geometry import Geometry
from trainact.gram.matmul import (
    Parts,
    operand_parts,
    parts_product,
    parts_self_product,
    tile_bytes,
)
from trainact.gram.patches import pad, windows
from trainact.precision import accumulation_dtype, statistics_dtype

# Rows that one float32 sum runs over, about. Twice as many give 1.2 times the error;
# with half as many, bands share more of their lines with each other.
SUM_ROWS = 2048


@dataclass(frozen=True)
class Layout:
    """Where a kernel's positions fall along one dimension.

    Position k of output line o is line ``o * stride + k * dilation`` of the image: line
    ``o + q`` if the stride's lines count as one, of which it is phase r.

    Attributes:
        dim: the spatial dimension.
        stride: of the convolution along it.
        steps: q of each kernel position.
        phases: r of each kernel position.
        phase_entries: C / G x kernel positions in the other dimensions.
    """

    dim: int
    stride: int
    steps: tuple[int, ...]
    phases: tuple[int, ...]
    phase_entries: int

    @property
    def num_border(self) -> int:
        """Q: lines that a kernel reaches beyond its first."""
        return self.steps[-1]

    @property
    def num_phases(self) -> int:
        """Phases that kernel positions fall on, from the first."""
        return max(self.phases) + 1

    @property
    def line_entries(self) -> int:
        """Entries of a line, M."""
        return self.num_phases * self.phase_entries

    @property
    def last_entries(self) -> int:
        """The first entries of a line, on which positions of the last step fall."""
        positions = zip(self.steps, self.phases, strict=True)
        last = max(r for q, r in positions if q == self.num_border)
        return (last + 1) * self.phase_entries

    @property
    def shifts(self) -> tuple[int, ...]:
        """Every q' - q >= 0 of two kernel positions, in ascending order."""
        return tuple(sorted({q - p for p in self.steps for q in self.steps if q >= p}))


def make_layout(geometry: Geometry, dim: int) -> Layout:
    """The layout of a layer's kernel along one spatial dimension."""
    stride, size = geometry.stride[dim], geometry.kernel_size[dim]
    positions = [k * geometry.dilation[dim] for k in range(size)]
    return Layout(
        dim,
        stride,
        steps=tuple(p // stride for p in positions),
        phases=tuple(p % stride for p in positions),
        phase_entries=geometry.num_entries // size,
    )


def shifted_gram(x: Tensor, geometry: Geometry, dim: int) -> Tensor:
    """XᵀX, ``[G, P, P]``, by shifts along a dimension with at least Q outputs.

    Cost, per group: ``T * M**2`` multiplications for each output position and ``M``
    copied entries, where ``T * M`` is P rounded up to whole strides; and the border.
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
    """XᵀX, ``[G, P, P]``, from what every pair of kernel positions (q, q + d) sums.

    Given are the sums over the lines that all pairs have, ``[Q + 1, G, M, M']`` by d,
    and products of the Q lines before these, ``[Q, G, M, 2Q, M']`` by line, and of the
    Q lines after these, ``[Q, G, M, Q, M']``.
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


def slabs(x: Tensor, geometry: Geometry, layout: Layout) -> Iterator[Tensor]:
    """View at least one image as lines (`line_view`), a few and part of the width each.

    Parts along the next dimension do not overlap, and are so narrow that bands of them
    are higher than what bands share.
    """
    outputs = geometry.output_size(x.shape[2:])
    num_lines = outputs[layout.dim] + layout.num_border
    width = math.prod(outputs) // outputs[layout.dim]
    height = min(outputs[layout.dim], 4 * layout.num_border)
    entries = geometry.groups * layout.line_entries * num_lines * width
    # Products of an image, in float32 and in float64, may be more than its lines.
    count = math.ceil(outputs[layout.dim] * width / SUM_ROWS)
    products = 3 * count * geometry.groups * layout.line_entries**2
    for images in x.split(max(1, _budget(x) // max(entries, products))):
        padded = pad(images.to(statistics_dtype(x)), geometry)
        view = line_view(padded, geometry, layout, num_lines)
        axis = 1 - geometry.num_spatial
        if axis == 0:
            yield view
        else:
            parts = max(1, math.ceil(width * height / SUM_ROWS))
            yield from view.split(math.ceil(view.shape[axis] / parts), dim=axis)


def bands(view: Tensor, geometry: Geometry, layout: Layout) -> Iterator[Tensor]:
    """Copy a slab's lines in bands, each with the lines that its kernels reach.

    ``[b, n, G, M, o + Q, W]``, contiguous, about a tile at a time; together they hold
    every output line once, in float32 sums of about `SUM_ROWS` rows a band.
    """
    axis, reach = view.ndim - geometry.num_spatial, layout.num_border
    outputs = view.shape[axis] - reach
    if outputs == 0:
        return
    width = math.prod(view.shape[axis + 1 :])
    size = math.ceil(outputs / math.ceil(outputs * width / SUM_ROWS))
    whole, rest = outputs // size * size, outputs % size
    # Without a copy: a band dimension behind the images, its lines where lines were.
    banded = view.narrow(axis, 0, whole + reach).unfold(axis, size + reach, size)
    banded = banded.movedim(axis, 1).movedim(-1, axis + 1)
    some = max(1, _budget(view) * banded.shape[1] // banded.numel())
    for part in banded.split(some, dim=1):
        yield copy_lines(part, geometry, layout)
    if rest:
        last = view.narrow(axis, whole, rest + reach)
        yield copy_lines(last.unsqueeze(1), geometry, layout)


def copy_lines(view: Tensor, geometry: Geometry, layout: Layout) -> Tensor:
    """Copy lines into ``[b, n, G, M, lines, W]``, contiguous.

    From a view ``[b, n, G, phases, C / G, *other kernel positions, lines, *others]``.
    """
    height = view.shape[-geometry.num_spatial]
    shape = (*view.shape[:3], layout.line_entries, height, -1)
    return view.reshape(shape).contiguous()


def _budget(x: Tensor) -> int:
    """Entries of a tile."""
    return max(1, tile_bytes(x) // statistics_dtype(x).itemsize)


def line_view(
    padded: Tensor, geometry: Geometry, layout: Layout, num_lines: int
) -> Tensor:
    """View a padded batch ``[b, C, *spatial]`` as its ``num_lines``, O + Q, lines.

    ``[b, G, phases, C / G, *other kernel positions, O + Q, *other outputs]``.
    """
    axis, num = 2 + layout.dim, geometry.num_spatial
    missing = num_lines * layout.stride - padded.shape[axis]
    if missing > 0:  # lines of the last step that no kernel position falls on
        padded = F.pad(padded, [0, 0] * (num - 1 - layout.dim) + [0, missing])
    whole = padded.narrow(axis, 0, num_lines * layout.stride)
    view = windows(whole, _without(geometry, layout.dim)).squeeze(axis + num)
    view = view.unflatten(axis, (num_lines, layout.stride))
    view = view.narrow(axis + 1, 0, layout.num_phases)
    view = view.unflatten(1, (geometry.groups, -1))
    # Now images, G, C / G, outputs with the phases behind their lines, other kernels.
    lines, phases = axis + 1, axis + 2
    outputs = [a for a in range(3, 4 + num) if a not in (lines, phases)]
    kernels = range(4 + num, view.ndim)
    return view.permute(0, 1, phases, 2, *kernels, lines, *outputs)


def _without(geometry: Geometry, dim: int) -> Geometry:
    """The geometry that leaves a dimension as it is."""

    def with_one(sizes: tuple[int, ...]) -> tuple[int, ...]:
        return (*sizes[:dim], 1, *sizes[dim + 1 :])

    return replace(
        geometry,
        kernel_size=with_one(geometry.kernel_size),
        stride=with_one(geometry.stride),
        dilation=with_one(geometry.dilation),
    )
