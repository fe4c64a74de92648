"""Which way to XᵀX is the cheapest for a layer's shapes?

A model of a CPU's time, fitted to measurements (`benchmarks/gram.py`, which also shows
what choosing by it loses): multiplications at a rate that grows with the size of the
matrices, copied entries, and what each way costs however small the input is. Only the
ratio of two costs matters, so that one set of constants serves other machines too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from trainact.geometry import Geometry
from trainact.gram.matmul import SYMMETRIC_ENTRIES
from trainact.gram.shifted import SUM_ROWS, make_layout

# Where shifts have been measured to be cheaper.
SHIFT_DEVICES = ("cpu",)

# Nanoseconds on one core: of a multiplication of large matrices, of an entry that is
# copied (in another order, if the last dimension is shifted) or added to a sum in
# float64, of a call.
MULTIPLICATION = 1 / 48
COPY = 1.0
LAST_COPY = 1.5
SUM = 0.5
TILES_CALL = 50e3
SHIFTS_CALL = 200e3

# Entries of all lines that a kernel reaches beyond its first, over entries of a patch.
MAX_BORDER = 2


@lru_cache(maxsize=1024)
def cheapest_dim(
    geometry: Geometry, shape: tuple[int, ...], device_type: str
) -> int | None:
    """The spatial dimension to shift along; None where explicit tiles are cheaper.

    For an input of shape ``[B, C, *spatial]`` on a device such as ``"cpu"``.
    """
    if device_type not in SHIFT_DEVICES or shape[0] == 0:
        return None
    outputs = geometry.output_size(shape[2:])
    costs: dict[int | None, float] = {None: tiles_cost(geometry, shape[0], outputs)}
    for dim in range(geometry.num_spatial):
        if can_shift(geometry, outputs, dim):
            costs[dim] = shifts_cost(geometry, shape[0], outputs, dim)
    return min(costs, key=lambda dim: costs[dim])


def can_shift(geometry: Geometry, outputs: Sequence[int], dim: int) -> bool:
    """Whether shifts along a dimension are possible, and their border is bounded.

    Not for one kernel position; for fewer output lines than a kernel reaches; or where
    dilation makes the products at the border much larger than A.
    """
    layout = make_layout(geometry, dim)
    border = layout.num_border * layout.line_entries
    return (
        0 < layout.num_border <= outputs[dim]
        and border <= MAX_BORDER * geometry.num_entries
    )


def tiles_cost(geometry: Geometry, batch: int, outputs: Sequence[int]) -> float:
    """Nanoseconds of explicit tiles, for these output positions per dimension."""
    rows, size = batch * math.prod(outputs) * geometry.groups, geometry.num_entries
    return TILES_CALL + rows * (COPY * size + _self_product(size))


def shifts_cost(
    geometry: Geometry, batch: int, outputs: Sequence[int], dim: int
) -> float:
    """Nanoseconds of shifts along a spatial dimension."""
    layout = make_layout(geometry, dim)
    size, reach = layout.line_entries, layout.num_border
    width = batch * math.prod(outputs) // outputs[dim] * geometry.groups
    rows = width * outputs[dim]
    products = _self_product(size)
    for shift in layout.shifts[1:]:
        other = layout.last_entries if shift == reach else size
        products += _product(size, other)
    border = 3 * (COPY * reach * size + _product(reach * size, reach * size))
    copy = LAST_COPY if dim == geometry.num_spatial - 1 else COPY
    copied = copy * size * (outputs[dim] + reach)
    summed = SUM * size**2 * len(layout.shifts) * rows / min(SUM_ROWS, rows / batch)
    summed += SUM * 4 * (reach * size) ** 2
    return SHIFTS_CALL + rows * products + width * (border + copied) + summed


def _self_product(size: int) -> float:
    """Nanoseconds for one column of a matrix times itself."""
    share = 0.5 + 0.5 * min(1.0, SYMMETRIC_ENTRIES / max(1, size))
    return share * _product(size, size)


def _product(size: int, other: int) -> float:
    """Nanoseconds for one column of a matrix times another."""
    smaller = max(1, min(size, other))
    slowness = 1 + 10 / smaller + 30 / smaller**2
    return MULTIPLICATION * slowness * size * other
