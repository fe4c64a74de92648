"""TrAct in the place of `jax.lax`'s own operations, for layers that take those.

Flax's layers have their convolution and their product as an attribute. One that holds
these instead is the same layer with the same parameters, and trains like TrAct's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from trainact.jax.conv import DimensionNumbers, mark_conv
from trainact.jax.damping import check_damping
from trainact.jax.layouts import dense_layout
from trainact.jax.preconditioner import mark
from trainact.jax.statistics import AxisName

Contraction = tuple[Sequence[int], Sequence[int]]


@dataclass(frozen=True)
class _Operation:
    """What both have in common."""

    lam: float = 0.1
    relative: bool = field(default=False, kw_only=True)
    axis_name: AxisName = None

    def __post_init__(self) -> None:
        check_damping(self.lam, self.relative)


@dataclass(frozen=True)
class ConvGeneralDilated(_Operation):
    r"""`jax.lax.conv_general_dilated` whose kernel's gradient is TrAct's.

    What `tract_conv` computes, with the arguments of `jax.lax`, for layers that take an
    operation: ``flax.linen.Conv(..., conv_general_dilated=ConvGeneralDilated())``. Two
    of them with the same values are equal, so that nothing is compiled twice.

    Attributes:
        lam: :math:`\lambda`, positive.
        relative: whether ``lam`` is relative to the mean square of the input's entries,
            tr A / n; see docs/extensions.md.
        axis_name: mapped axes whose rows belong together, as for `tract_conv`.
        plain: the operation whose values it has.

    Raises:
        ValueError: if λ is not positive, or when called for a transposed convolution.
        TypeError: if ``relative`` is not a bool.
    """

    plain: Callable[..., Array] = lax.conv_general_dilated

    def __call__(
        self,
        lhs: Array,
        rhs: Array,
        window_strides: Sequence[int],
        padding: Any,
        lhs_dilation: Sequence[int] | None = None,
        rhs_dilation: Sequence[int] | None = None,
        dimension_numbers: DimensionNumbers = None,
        feature_group_count: int = 1,
        **others: Any,
    ) -> Array:
        """Convolve.

        Args:
            lhs: the images.
            rhs: the kernel.
            window_strides: per spatial dimension.
            padding: as in `jax.lax`.
            lhs_dilation: of the images; only 1.
            rhs_dilation: of the kernel, per spatial dimension.
            dimension_numbers: as in `jax.lax`.
            feature_group_count: channel groups.
            **others: passed on.

        Returns:
            What the plain operation returns.

        Raises:
            ValueError: if shapes or settings do not fit, or the convolution is a
                transposed one or has groups of images.
        """
        is_dilated = lhs_dilation is not None and any(d != 1 for d in lhs_dilation)
        if is_dilated or others.get("batch_group_count", 1) != 1:
            msg = (
                f"lhs_dilation={lhs_dilation}, batch_group_count="
                f"{others.get('batch_group_count', 1)}: TrAct is for convolutions of "
                "the input itself; a transposed one is no first layer"
            )
            raise ValueError(msg)
        kernel = mark_conv(
            lhs,
            rhs,
            check_damping(self.lam, self.relative),
            strides=window_strides,
            padding=padding,
            rhs_dilation=1 if rhs_dilation is None else rhs_dilation,
            feature_group_count=feature_group_count,
            dimension_numbers=dimension_numbers,
            axis_name=self.axis_name,
        )
        return self.plain(
            lhs,
            kernel,
            window_strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            dimension_numbers=dimension_numbers,
            feature_group_count=feature_group_count,
            **others,
        )


@dataclass(frozen=True)
class DotGeneral(_Operation):
    r"""`jax.lax.dot_general` for which the right operand's gradient is TrAct's.

    What `tract_dense` computes, with the arguments of `jax.lax`: the left operand has
    the rows, whose entries are the axes that are summed over; the right one is a
    weight.

    Attributes:
        lam: :math:`\lambda`, positive.
        relative: whether ``lam`` is relative to the mean square of the input's entries,
            tr A / n; see docs/extensions.md.
        axis_name: mapped axes whose rows belong together, as for `tract_dense`.
        plain: the operation whose values it has; None for that of `jax.lax`.

    Raises:
        ValueError: if λ is not positive, or when called with batch dimensions.
        TypeError: if ``relative`` is not a bool.
    """

    plain: Callable[..., Array] | None = None

    def __call__(
        self,
        lhs: Array,
        rhs: Array,
        dimension_numbers: tuple[Contraction, Contraction],
        **others: Any,
    ) -> Array:
        """Multiply.

        Args:
            lhs: the rows.
            rhs: the weight.
            dimension_numbers: ((axes of lhs, axes of rhs) to sum over, batch axes), of
                which there are none.
            **others: passed on.

        Returns:
            What the plain operation returns.

        Raises:
            ValueError: if there are batch axes: each would have a weight of its own.
        """
        (summed_x, summed_w), (batch_x, _) = dimension_numbers
        if batch_x:
            msg = (
                f"dot_general with batch axes {tuple(batch_x)}: TrAct needs one weight "
                "for all rows; use it on a layer without batch axes"
            )
            raise ValueError(msg)
        if lhs.size and rhs.size:
            rows = jnp.moveaxis(lhs, summed_x, range(-len(summed_x), 0))
            entries = math.prod(lhs.shape[axis] for axis in summed_x)
            rows = rows.reshape(-1, entries)
            outputs = tuple(axis for axis in range(rhs.ndim) if axis not in summed_w)
            # The entries' axes first; back again after the kernel is marked.
            order = (*summed_w, *outputs)
            weight = lax.transpose(rhs, order)
            marked = mark(
                weight.reshape(entries, -1),
                rows,
                check_damping(self.lam, self.relative),
                (1, 0),
                dense_layout(rows),
                self.axis_name,
            )
            back = tuple(order.index(axis) for axis in range(rhs.ndim))
            rhs = lax.transpose(marked.reshape(weight.shape), back)
        plain = self.plain or lax.dot_general
        return plain(lhs, rhs, dimension_numbers, **others)
