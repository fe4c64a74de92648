"""XᵀX and the dual form as single operators, for compiled code.

Cut into tiles, they are Python loops over the batch: compiled, the loops would be
unrolled and their length would tie the graph to one batch size. As operators they are
one node each, for any batch size. Eager code calls what is inside directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainact.damping import Damping
from trainact.factor import Factor, factorise_rows
from trainact.geometry import Geometry
from trainact.gram.patches import extract_patches
from trainact.gram.route import compute_gram
from trainact.kernels.choice import may_take
from trainact.precision import accumulation_dtype, full_precision, statistics_dtype


def gram(x: Tensor, geometry: Geometry) -> Tensor:
    """`trainact.gram.route.compute_gram`, as one operator where it must be.

    That is in compiled code, and where a kernel may be used: a kernel cannot read fake
    and batched tensors, for which the operator has rules.
    """
    if torch.compiler.is_compiling() or may_take("products"):
        return _sum_products(x, *_flatten(geometry))
    return compute_gram(x, geometry)


def dual_factor(x: Tensor, geometry: Geometry, damping: Damping) -> Factor:
    """`trainact.factor.factorise_rows` of a layer's input as one operator."""
    settings = (*_flatten(geometry), damping.lam, damping.relative)
    return Factor(*_dual_factor(x, *settings))


@torch.library.custom_op("trainact::sum_products", mutates_args=())
def _sum_products(x: Tensor, numbers: Sequence[int], padding_mode: str) -> Tensor:
    with full_precision(x):
        return compute_gram(x, _unflatten(numbers, padding_mode))


@_sum_products.register_fake
def _(x: Tensor, numbers: Sequence[int], padding_mode: str) -> Tensor:
    geometry = _unflatten(numbers, padding_mode)
    size = geometry.num_entries
    return x.new_empty(geometry.groups, size, size, dtype=accumulation_dtype(x))


@torch.library.custom_op("trainact::dual_factor", mutates_args=())
def _dual_factor(
    x: Tensor,
    numbers: Sequence[int],
    padding_mode: str,
    lam: float,
    relative: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    with full_precision(x):
        rows_GNP = extract_patches(x, _unflatten(numbers, padding_mode))
        factor: Any = factorise_rows(rows_GNP, Damping(lam, relative))
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
    groups, size = geometry.groups, geometry.num_entries
    num_rows = geometry.num_rows(x.shape)
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


def _flatten(geometry: Geometry) -> tuple[list[int], str]:
    """Operators take lists of integers, not objects."""
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


def _unflatten(numbers: Sequence[int], padding_mode: str) -> Geometry:
    channels, groups, *rest = numbers
    spatial = len(rest) // 5
    borders = rest[3 * spatial :]
    return Geometry(
        channels=channels,
        kernel_size=tuple(rest[:spatial]),
        stride=tuple(rest[spatial : 2 * spatial]),
        padding=tuple(zip(borders[::2], borders[1::2], strict=True)),
        dilation=tuple(rest[2 * spatial : 3 * spatial]),
        groups=groups,
        padding_mode=padding_mode,  # pyright: ignore[reportArgumentType]
    )
