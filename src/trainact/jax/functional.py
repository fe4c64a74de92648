"""The method as functions of arrays, for layers that trainact has none for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from trainact.damping import Damping
from trainact.jax.checks import check_floating
from trainact.jax.damping import check_damping
from trainact.jax.factor import Factor, factorise_gram
from trainact.jax.layouts import (
    InputLayout,
    Padding,
    axes_of_layout,
    conv_layout,
    dense_layout,
)
from trainact.jax.precision import (
    accumulation_dtype,
    cast,
    float64_allowed,
    statistics_dtype,
)
from trainact.jax.preconditioner import (
    apply_to_kernel,
    entries_of,
    mark,
    mark_with,
)
from trainact.jax.sharding import split_freely
from trainact.jax.statistics import AxisName, mean_products
from trainact.jax.sums import GramSums, wide_products

LAYOUTS = {3: "NCW", 4: "NCHW", 5: "NCDHW"}


def patch_gram(
    x: Array,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    layout: str | None = None,
    axis_name: AxisName = None,
) -> Array:
    r"""Second moment of the patches that a convolution sees, :math:`A = X^\top X / b`.

    X is the unfolded batch: b = images x output positions rows, n = channels / groups x
    kernel positions entries, channels first, whatever the layout. It is never held as a
    whole.

    Args:
        x: a batch with one to three spatial dimensions.
        kernel_size: one number for all spatial dimensions, or one each.
        stride: likewise.
        padding: likewise, or a (before, after) pair each, or ``'SAME'``,
            ``'SAME_LOWER'`` or ``'VALID'``.
        dilation: one number for all spatial dimensions, or one each.
        groups: channel groups, each with a Gram matrix of its own.
        layout: of x, with N for the batch and C for the channels, such as ``'NHWC'``;
            None is batch, channels, spatial.
        axis_name: mapped axes whose rows belong together.

    Returns:
        A, ``[n, n]``, or ``[groups, n, n]`` for more than one group; float64 for
        float64 inputs, otherwise float32. It has no gradient.

    Raises:
        ValueError: if the arguments do not fit the input.

    Examples:
        >>> import jax.numpy as jnp
        >>> import trainact.jax
        >>> x = jnp.arange(4.0).reshape(1, 1, 4)
        >>> print(trainact.jax.patch_gram(x, kernel_size=2).round(4))
        [[1.6667 2.6667]
         [2.6667 4.6667]]

    References:
        Petersen, Borgelt, Ermon: TrAct: Making First-layer Pre-Activations Trainable,
        NeurIPS 2024, Sec. 3 (the matrix in Eq. 8 to 10).
    """
    x = lax.stop_gradient(check_floating("x", x))
    letters = LAYOUTS.get(x.ndim, "") if layout is None else layout
    if not letters or len(letters) != x.ndim:
        msg = (
            f"x has shape {x.shape}, layout={layout!r}: expected a letter for each "
            "axis, with N for the batch and C for the channels"
        )
        raise ValueError(msg)
    axes = axes_of_layout(letters, "N", "C")
    read = conv_layout(x.shape, axes, kernel_size, stride, padding, dilation, groups)
    if not read.has_rows(x):
        msg = (
            f"x of shape {x.shape} has no patches of size {read.geometry.kernel_size}: "
            f"it has {x.shape[axes[0]]} images, padded by {read.geometry.padding}"
        )
        raise ValueError(msg)
    with float64_allowed(accumulation_dtype(x.dtype)):
        gram_GPP = split_freely(partial(_patch_gram, read, axis_name), x)
    return gram_GPP[0] if groups == 1 else gram_GPP


def factorise(
    gram: Array | GramSums, lam: float | Array = 0.1, *, relative: bool = False
) -> Factor:
    r"""Prepare :math:`(A + \lambda I)^{-1}` for `precondition`.

    Args:
        gram: A, ``[n, n]`` or ``[groups, n, n]``, or the sums of micro-batches.
        lam: :math:`\lambda`, positive; an array (a schedule) is not checked.
        relative: whether ``lam`` is relative to the mean square of the input's entries,
            tr A / n of each group; see docs/extensions.md.

    Returns:
        The factor, constant for derivatives; NaN where A is not finite. Cost: about
        :math:`2 n^3` multiplications for each group, in float64.

    Raises:
        ValueError: if A is not square or λ not positive.
        TypeError: if ``relative`` is not a bool.
    """
    gram, damping = lax.stop_gradient((gram, check_damping(lam, relative)))
    if isinstance(gram, GramSums):
        with float64_allowed(accumulation_dtype(gram.products.dtype)):
            return _factorise_sums(gram, jax.tree.map(jnp.asarray, damping))
    gram = check_floating("gram", gram)
    if gram.ndim not in (2, 3) or gram.shape[-1] != gram.shape[-2]:
        msg = f"A has shape {gram.shape}; expected [n, n] or [groups, n, n]"
        raise ValueError(msg)
    with float64_allowed(accumulation_dtype(gram.dtype)):
        gram_GPP = gram.reshape(-1, *gram.shape[-2:])
        return _factorise(gram_GPP, jax.tree.map(jnp.asarray, damping))


def precondition(
    weight: Array,
    x_or_factor: Array | Factor,
    lam: float | Array = 0.1,
    *,
    layout: str,
    relative: bool = False,
    axis_name: AxisName = None,
) -> Array:
    r"""Identity on the weight; G becomes :math:`G (X^\top X / b + \lambda I)^{-1}`.

    G is the weight's gradient, brought into one row for each output.

    Args:
        weight: W, in any layout.
        x_or_factor: the rows X, ``[..., n]`` (every vector a row), or a factor. Give
            the rows that the weight is multiplied with, not a constant copy, and use
            the result in that product alone: with fewer rows than entries, what its
            gradient has outside their span is taken as rounding and dropped, unless
            the rows were differentiated before.
        lam: :math:`\lambda`, for rows; a factor has its own.
        layout: of the weight, with O for the outputs and I for the inputs: ``'IO'`` for
            a dense kernel, ``'HWIO'`` or ``'OIHW'`` for a convolution's.
        relative: whether ``lam`` is relative to the mean square of the input's entries,
            tr A / n, for rows; see docs/extensions.md.
        axis_name: mapped axes whose rows belong together; a factor has its own.

    Returns:
        W, unchanged. Cost in the backward: one multiplication of G with an n x n
        matrix, or two with a b x n matrix if there are fewer rows than entries.

    Raises:
        ValueError: if the entries do not match or λ is not positive.
        TypeError: if ``relative`` is not a bool.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> import trainact.jax
        >>> w, x = jnp.zeros((1, 2)), jnp.array([[1.0, 0.0], [0.0, 3.0]])
        >>> def loss(w):
        ...     return (x @ trainact.jax.precondition(w, x, layout="OI").T).sum()
        >>> print(jax.grad(loss)(w).round(4))  # (1, 3) / (1/2 + 0.1, 9/2 + 0.1)
        [[1.6667 0.6522]]

    References:
        Petersen, Borgelt, Ermon: TrAct: Making First-layer Pre-Activations Trainable,
        NeurIPS 2024, Eq. 12 and Fig. 2.
    """
    weight = check_floating("weight", weight)
    axes = _kernel_axes(weight, layout)
    if isinstance(x_or_factor, Factor):
        _check_entries(weight, axes, x_or_factor.num_entries, x_or_factor.groups)
        return mark_with(weight, x_or_factor, axes)
    x = check_floating("x", x_or_factor)
    if x.size == 0 or x.ndim == 0:
        msg = f"x has shape {x.shape}: there are no rows"
        raise ValueError(msg)
    _check_entries(weight, axes, x.shape[-1], 1)
    damping = check_damping(lam, relative)
    return mark(weight, x, damping, axes, dense_layout(x), axis_name)


def precondition_gradient(grad: Array, factor: Factor, *, layout: str) -> Array:
    r"""Multiply an ordinary weight gradient by :math:`(A + \lambda I)^{-1}`.

    For gradient accumulation: k micro-batches give the update of the whole batch,
    :math:`(\sum_i G_i) (\sum_i X_i^\top X_i / \sum_i b_i + \lambda I)^{-1}`, if plain
    gradients and statistics are added up and this is applied once.

    Args:
        grad: G, in any layout.
        factor: from `factorise`.
        layout: of the gradient, as for `precondition`.

    Returns:
        The preconditioned gradient, in the same layout and dtype.

    Raises:
        ValueError: if the entries do not match.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from trainact.jax import GramSums, dense_sums
        >>> from trainact.jax import factorise, precondition_gradient
        >>> w, batches = jnp.zeros((2, 1)), jnp.array([[[1.0, 0.0]], [[0.0, 3.0]]])
        >>> def add(carry, x):
        ...     grad, sums = carry
        ...     return (grad + jax.grad(lambda w: (x @ w).sum())(w),
        ...             sums + dense_sums(x)), None
        >>> zero = jnp.zeros_like(w), GramSums.zeros(num_entries=2)
        >>> (grad, sums), _ = jax.lax.scan(add, zero, batches)
        >>> factor = factorise(sums, lam=0.1)
        >>> print(precondition_gradient(grad, factor, layout="IO").T.round(4))
        [[1.6667 0.6522]]
    """
    grad = check_floating("grad", grad)
    axes = _kernel_axes(grad, layout)
    _check_entries(grad, axes, factor.num_entries, factor.groups)
    return apply_to_kernel(grad, factor, axes)


# Compiled as one also where the user's code is not.
@partial(jax.jit, static_argnums=(0, 1))
def _patch_gram(layout: InputLayout, axis_name: AxisName, x: Array) -> Array:
    gram_GPP = mean_products(layout.order(x), layout.geometry, axis_name)
    return cast(gram_GPP, statistics_dtype(x.dtype))


@jax.jit
def _factorise(gram_GPP: Array, damping: Damping) -> Factor:
    dtype = gram_GPP.dtype
    wide = cast(gram_GPP, accumulation_dtype(dtype))
    return factorise_gram(wide, damping, statistics_dtype(dtype))


@jax.jit
def _factorise_sums(sums: GramSums, damping: Damping) -> Factor:
    products_GPP = wide_products(sums)
    # Of no rows A is zero, not NaN.
    num_rows = cast(jnp.maximum(sums.rows, 1), products_GPP.dtype)
    return factorise_gram(products_GPP / num_rows, damping, sums.products.dtype)


def _kernel_axes(weight: Array, layout: str) -> tuple[int, ...]:
    axes = axes_of_layout(layout, "O", "I")
    if len(axes) != weight.ndim:
        msg = (
            f"layout={layout!r} has {len(axes)} letters, the weight of shape "
            f"{weight.shape} has {weight.ndim} axes: name each, such as 'IO' or 'HWIO'"
        )
        raise ValueError(msg)
    return axes


def _check_entries(
    weight: Array, axes: tuple[int, ...], seen: int, groups: int
) -> None:
    entries = entries_of(weight.shape, axes)
    if seen != entries or weight.shape[axes[0]] % groups:
        msg = (
            f"the weight of shape {weight.shape} has {weight.shape[axes[0]]} rows of "
            f"{entries} entries, the statistics {seen} entries in {groups} group(s): "
            "unfold the input, or take patch_gram with the layer's geometry, and check "
            "the layout"
        )
        raise ValueError(msg)
