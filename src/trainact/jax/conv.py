"""A convolution that trains its pre-activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax import Array, lax

from trainact.damping import Damping
from trainact.jax.checks import check_floating, check_layer
from trainact.jax.damping import check_damping
from trainact.jax.layouts import InputLayout, Padding, conv_layout
from trainact.jax.preconditioner import mark
from trainact.jax.statistics import AxisName
from trainact.jax.sums import GramSums, input_sums

DimensionNumbers = tuple[str, str, str] | lax.ConvDimensionNumbers | None


def tract_conv(
    x: Array,
    w: Array,
    b: Array | None = None,
    lam: float | Array = 0.1,
    *,
    relative: bool = False,
    strides: int | Sequence[int] = 1,
    padding: Padding,
    rhs_dilation: int | Sequence[int] = 1,
    feature_group_count: int = 1,
    dimension_numbers: DimensionNumbers = None,
    axis_name: AxisName = None,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> Array:
    r"""Convolution whose kernel's gradient is TrAct's.

    The layer is `jax.lax.conv_general_dilated`. Its patches are the b rows of X,
    b = images x output positions, n = channels / groups x kernel positions. With the
    ordinary gradient G of the kernel (``w``), one row for each output channel,
    reverse-mode differentiation gives

    .. math:: G (X^\top X / b + \lambda I)^{-1}

    with :math:`\lambda` as ``lam``, for each group of channels with its own X. Values
    and the gradients of ``x`` and ``b`` are those of the plain layer, to the bit. The
    statistics are constants for derivatives.

    Args:
        x: the images, ``[batch, channels, *spatial]`` in the order that
            ``dimension_numbers`` says; one to three spatial dimensions (any number).
        w: the kernel, likewise.
        b: ``[output channels]``.
        lam: :math:`\lambda`, positive; an array (a schedule) is not checked.
        relative: whether ``lam`` is relative to the mean square of the input's entries,
            tr A / n; see docs/extensions.md.
        strides: one number for all spatial dimensions, or one each.
        padding: ``'SAME'``, ``'SAME_LOWER'``, ``'VALID'``, one number for all spatial
            dimensions, or a number or (before, after) pair for each.
        rhs_dilation: dilation of the kernel, as ``strides``.
        feature_group_count: channel groups.
        dimension_numbers: such as ``('NHWC', 'HWIO', 'NHWC')``, as in `jax.lax`; None
            is batch, channels, spatial and outputs, inputs, spatial.
        axis_name: mapped axes (of ``shard_map``, ``pmap``, ``vmap``) whose rows belong
            together: the statistics are those of all of them. Under jit with sharded
            arrays they are so without it.
        precision: of the layer's own products, as in `jax.lax`.
        preferred_element_type: likewise.

    Returns:
        z, as the plain layer's. Cost when differentiated: :math:`b n^2 + 2 n^3`
        multiplications more for each group (:math:`2 b^2 n` for :math:`b < n`), one
        pass over the patches, of which at most 8 MiB (256 MiB on accelerators) exist at
        a time, and a matrix of n x n (b x n) kept.

    Raises:
        ValueError: if shapes, dtypes or settings do not fit, or λ is not positive.
        TypeError: if ``relative`` is not a bool.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from trainact.jax import tract_conv
        >>> x, w = jnp.arange(4.0).reshape(1, 4, 1), jnp.zeros((2, 1, 1))
        >>> def loss(w):
        ...     numbers = ("NWC", "WIO", "NWC")
        ...     z = tract_conv(x, w, padding="VALID", dimension_numbers=numbers)
        ...     return z.sum()
        >>> first, second = jax.grad(loss)(w).ravel()  # the plain one is (3, 6)
        >>> print(f"{first:.4f} {second:.4f}")
        -1.2977 1.9847

    Warning:
        As for `tract_dense`: no forward mode through the layer itself, and ``jax.vmap``
        makes each example a batch of its own, unless ``axis_name`` names the axis.

    References:
        Petersen, Borgelt, Ermon: TrAct: Making First-layer Pre-Activations Trainable,
        NeurIPS 2024, Eq. 10 and Fig. 2.
    """
    x, w = check_floating("x", x), check_floating("w", w)
    b = None if b is None else check_floating("b", b)
    layout, numbers = _read(
        x, w, strides, padding, rhs_dilation, feature_group_count, dimension_numbers
    )
    check_layer(x, w, b, w.shape[numbers.rhs_spec[0]])
    damping = check_damping(lam, relative)
    w = mark(w, x, damping, tuple(numbers.rhs_spec), layout, axis_name)
    geometry = layout.geometry
    z = lax.conv_general_dilated(
        x,
        w,
        geometry.stride,
        geometry.padding,
        rhs_dilation=geometry.dilation,
        dimension_numbers=numbers,
        feature_group_count=feature_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )
    if b is None:
        return z
    shape = [1] * z.ndim
    shape[numbers.out_spec[1]] = b.size
    return z + b.reshape(shape).astype(z.dtype)


def mark_conv(
    x: Array,
    w: Array,
    damping: Damping,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding,
    rhs_dilation: int | Sequence[int] = 1,
    feature_group_count: int = 1,
    dimension_numbers: DimensionNumbers = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Pass a kernel on; its gradient will be that of `tract_conv` for this input.

    Args:
        x: the images, as for `tract_conv`; a constant for derivatives.
        w: the kernel.
        damping: :math:`\lambda`, checked.
        strides: as for `tract_conv`.
        padding: likewise.
        rhs_dilation: likewise.
        feature_group_count: likewise.
        dimension_numbers: likewise.
        axis_name: likewise.

    Returns:
        The kernel, unchanged.

    Raises:
        ValueError: if shapes or settings do not fit.
    """
    layout, numbers = _read(
        x, w, strides, padding, rhs_dilation, feature_group_count, dimension_numbers
    )
    return mark(w, x, damping, tuple(numbers.rhs_spec), layout, axis_name)


def conv_sums(
    x: Array,
    w: Array,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding,
    rhs_dilation: int | Sequence[int] = 1,
    feature_group_count: int = 1,
    dimension_numbers: DimensionNumbers = None,
) -> GramSums:
    """Statistics of a convolution's input, to be added over micro-batches.

    See `precondition_gradient` for the whole step.

    Args:
        x: the images, as for `tract_conv`.
        w: the kernel, of which only the shape matters.
        strides: as for `tract_conv`.
        padding: likewise.
        rhs_dilation: likewise.
        feature_group_count: likewise.
        dimension_numbers: likewise.

    Returns:
        The sums, without a gradient.

    Raises:
        ValueError: if shapes or settings do not fit.
    """
    x = check_floating("x", x)
    layout, _ = _read(
        x, w, strides, padding, rhs_dilation, feature_group_count, dimension_numbers
    )
    return input_sums(x, layout)


def _read(
    x: Array,
    w: Array,
    strides: int | Sequence[int],
    padding: Padding,
    rhs_dilation: int | Sequence[int],
    feature_group_count: int,
    dimension_numbers: DimensionNumbers,
) -> tuple[InputLayout, lax.ConvDimensionNumbers]:
    """Read from a convolution's shapes and settings where its patches and axes are."""
    x_shape, w_shape = x.shape, w.shape
    numbers = _dimension_numbers(x_shape, w_shape, dimension_numbers)
    layout = conv_layout(
        x_shape,
        tuple(numbers.lhs_spec),
        [w_shape[axis] for axis in numbers.rhs_spec[2:]],
        strides,
        padding,
        rhs_dilation,
        feature_group_count,
    )
    geometry = layout.geometry
    outputs, inputs = (w_shape[axis] for axis in numbers.rhs_spec[:2])
    if inputs * geometry.groups != geometry.channels or outputs % geometry.groups:
        msg = (
            f"x of shape {x_shape} has {geometry.channels} channels, but w of "
            f"shape {w_shape} has {inputs} inputs and {outputs} outputs for "
            f"feature_group_count={geometry.groups}: check dimension_numbers, by which "
            f"channels are axis {numbers.lhs_spec[1]} of x and inputs axis "
            f"{numbers.rhs_spec[1]} of w"
        )
        raise ValueError(msg)
    return layout, numbers


def _dimension_numbers(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], given: DimensionNumbers
) -> lax.ConvDimensionNumbers:
    if len(x_shape) != len(w_shape) or len(x_shape) < 3:
        msg = (
            f"x has shape {x_shape} and w {w_shape}: expected as many axes of each, a "
            "batch and channels and at least one spatial dimension (x[None] makes a "
            "batch of one image)"
        )
        raise ValueError(msg)
    try:
        return lax.conv_dimension_numbers(x_shape, w_shape, given)
    except (TypeError, ValueError) as error:
        msg = (
            f"dimension_numbers={given!r} does not fit x of shape {x_shape} and w of "
            f"shape {w_shape}: name every axis once, such as "
            "('NHWC', 'HWIO', 'NHWC')"
        )
        raise ValueError(msg) from error
