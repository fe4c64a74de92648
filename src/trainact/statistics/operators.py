"""The statistics as single operators, for compiled code.

Cut into tiles, they are Python loops over the batch: compiled, the loops would be
unrolled and their length would tie the graph to one batch size. As operators they are
one node each, for any batch size. Eager code calls what is inside directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainact.damping import Lam, flatten, unflatten
from trainact.factor import Factor, factorise_rows
from trainact.geometry import Geometry
from trainact.gram import rows
from trainact.precision import accumulation_dtype, full_precision, statistics_dtype


def sum_products(x: Tensor, geometry: Geometry | None) -> Tensor:
    """`trainact.gram.rows.sum_products` as one operator.

    Args:
        x: the layer's input.
        geometry: of the layer, or None for a linear one.

    Returns:
        b times A, ``[G, P, P]``.
    """
    return _sum_products(x, *_flatten(geometry))


def dual_factor(x: Tensor, geometry: Geometry | None, lam: Lam) -> Factor:
    r"""The dual form as one operator.

    Args:
        x: the layer's input.
        geometry: of the layer, or None for a linear one.
        lam: :math:`\lambda`.

    Returns:
        The factor.
    """
    return Factor(*_dual_factor(x, *_flatten(geometry), *flatten(lam)))


@torch.library.custom_op("trainact::sum_products", mutates_args=())
def _sum_products(x: Tensor, numbers: Sequence[int], padding_mode: str) -> Tensor:
    with full_precision(x):
        return rows.sum_products(x, _unflatten(numbers, padding_mode))


@_sum_products.register_fake
def _(x: Tensor, numbers: Sequence[int], padding_mode: str) -> Tensor:
    geometry = _unflatten(numbers, padding_mode)
    groups = geometry.groups if geometry else 1
    size = rows.count_entries(x, geometry)
    return x.new_empty(groups, size, size, dtype=accumulation_dtype(x))


@torch.library.custom_op("trainact::dual_factor", mutates_args=())
def _dual_factor(
    x: Tensor,
    numbers: Sequence[int],
    padding_mode: str,
    lam: float,
    relative: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    with full_precision(x):
        rows_GNP = rows.extract_rows(x, _unflatten(numbers, padding_mode))
        factor: Any = factorise_rows(rows_GNP, unflatten(lam, relative))
    # An operator's results have a fixed layout; LAPACK's is column by column.
    inner, basis, outer = (tensor.contiguous() for tensor in factor)
    return inner, basis, outer


@_dual_factor.register_fake
def _(
    x: Tensor,
    numbers: Sequence[int],
    padding_mode: str,
    lam: float,
    relative: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    del lam, relative
    geometry = _unflatten(numbers, padding_mode)
    groups = geometry.groups if geometry else 1
    num_rows = rows.count_rows(x, geometry)
    size = rows.count_entries(x, geometry)
    dtype, wide = statistics_dtype(x), accumulation_dtype(x)
    return (
        x.new_empty(groups, num_rows, num_rows, dtype=wide),
        x.new_empty(groups, num_rows, size, dtype=dtype),
        x.new_empty(groups, 1, 1, dtype=wide),
    )


@_sum_products.register_vmap
def _(info: Any, in_dims: Any, x: Tensor, *settings: Any) -> tuple[Tensor, int]:
    del info
    samples = x.movedim(in_dims[0], 0).unbind()
    return torch.stack([_sum_products(sample, *settings) for sample in samples]), 0


@_dual_factor.register_vmap
def _(
    info: Any, in_dims: Any, x: Tensor, *settings: Any
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    del info
    samples = x.movedim(in_dims[0], 0).unbind()
    factors = [_dual_factor(sample, *settings) for sample in samples]
    return tuple(map(torch.stack, zip(*factors, strict=True))), (0, 0, 0)


def _flatten(geometry: Geometry | None) -> tuple[list[int], str]:
    """Operators take lists of integers, not objects."""
    if geometry is None:
        return [], "zeros"
    borders = [size for pair in geometry.padding for size in pair]
    numbers = [
        geometry.channels,
        geometry.groups,
        *geometry.kernel_size,
        *geometry.stride,
        *geometry.dilation,
        *borders,
    ]
    return numbers, geometry.padding_mode


def _unflatten(numbers: Sequence[int], padding_mode: str) -> Geometry | None:
    if not numbers:
        return None
    channels, groups, *rest = numbers
    spatial = len(rest) // 5
    kernel, stride, dilation, before_after = (
        rest[:spatial],
        rest[spatial : 2 * spatial],
        rest[2 * spatial : 3 * spatial],
        rest[3 * spatial :],
    )
    return Geometry(
        channels=channels,
        kernel_size=tuple(kernel),
        stride=tuple(stride),
        padding=tuple(zip(before_after[::2], before_after[1::2], strict=True)),
        dilation=tuple(dilation),
        groups=groups,
        padding_mode=padding_mode,  # pyright: ignore[reportArgumentType]
    )
