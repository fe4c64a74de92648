"""A dense layer that trains its pre-activations."""

from __future__ import annotations

from typing import Any

from jax import Array, lax

from trainact.jax.checks import check_floating, check_layer
from trainact.jax.damping import check_damping
from trainact.jax.layouts import dense_layout
from trainact.jax.preconditioner import mark
from trainact.jax.statistics import AxisName
from trainact.jax.sums import GramSums, input_sums


def tract_dense(
    x: Array,
    w: Array,
    b: Array | None = None,
    lam: float | Array = 0.1,
    *,
    relative: bool = False,
    axis_name: AxisName = None,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> Array:
    r"""Dense layer :math:`z = x W + b` whose kernel's gradient is TrAct's.

    With the ordinary gradient :math:`G = X^\top \nabla_z` of W (``w``) and the input's
    vectors as the b rows of X (``x``), reverse-mode differentiation gives

    .. math:: (X^\top X / b + \lambda I)^{-1} G

    with :math:`\lambda` as ``lam``. Values and the gradients of ``x`` and ``b`` are
    those of the plain layer, to the bit. The statistics are constants for derivatives.

    Args:
        x: ``[..., n]``; every vector is a row.
        w: ``[n, m]``, JAX's order (PyTorch's weight transposed).
        b: ``[m]``.
        lam: :math:`\lambda`, positive; an array (a schedule) is not checked.
        relative: whether ``lam`` is relative to the mean square of the input's entries,
            tr A / n; see docs/extensions.md.
        axis_name: mapped axes (of ``shard_map``, ``pmap``, ``vmap``) whose rows belong
            together: the statistics are those of all of them. Under jit with sharded
            arrays they are so without it.
        precision: of the layer's own product, as in `jax.lax.dot_general`.
        preferred_element_type: likewise.

    Returns:
        z, ``[..., m]``. Cost when differentiated: :math:`b n^2 + 2 n^3` multiplications
        more (:math:`2 b^2 n` for :math:`b < n`), and a matrix of n x n (b x n) kept.

    Raises:
        ValueError: if shapes or dtypes do not fit, or λ is not positive.
        TypeError: if ``relative`` is not a bool.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from trainact.jax import tract_dense
        >>> x, w = jnp.array([[1.0, 0.0], [0.0, 3.0]]), jnp.zeros((2, 1))
        >>> grad = jax.grad(lambda w: tract_dense(x, w, lam=0.1).sum())(w)
        >>> print(grad.T.round(4))  # (1, 3) divided by (1/2 + 0.1, 9/2 + 0.1)
        [[1.6667 0.6522]]

    Warning:
        ``jax.jvp`` and ``jax.jacfwd`` of the layer itself raise JAX's error about
        forward mode and ``custom_vjp``; of its gradient (``jax.hessian``) they work.
        Under ``jax.vmap`` each example is a batch of its own, unless ``axis_name``
        names the axis.

    References:
        Petersen, Borgelt, Ermon: TrAct: Making First-layer Pre-Activations Trainable,
        NeurIPS 2024, Eq. 10 and Fig. 2.
    """
    x, w, b = _checked(x, w, b)
    damping = check_damping(lam, relative)
    w = mark(w, x, damping, (1, 0), dense_layout(x), axis_name)
    z = lax.dot_general(
        x,
        w,
        (((x.ndim - 1,), (0,)), ((), ())),
        precision=precision,
        preferred_element_type=preferred_element_type,
    )
    if b is None:
        return z
    return z + b.reshape((1,) * (z.ndim - 1) + b.shape).astype(z.dtype)


def dense_sums(x: Array) -> GramSums:
    """Statistics of a dense layer's input, to be added over micro-batches.

    See `precondition_gradient` for the whole step.

    Args:
        x: ``[..., n]``; every vector is a row.

    Returns:
        The sums, without a gradient.

    Raises:
        ValueError: if x has no axis or is not floating.
    """
    x = check_floating("x", x)
    if x.ndim == 0:
        msg = "x is a scalar; expected [..., features]"
        raise ValueError(msg)
    return input_sums(x, dense_layout(x))


def _checked(x: Any, w: Any, b: Any) -> tuple[Array, Array, Array | None]:
    x, w = check_floating("x", x), check_floating("w", w)
    b = None if b is None else check_floating("b", b)
    if w.ndim != 2 or x.ndim == 0 or x.shape[-1] != w.shape[0]:
        hint = ""
        if w.ndim == 2 and x.ndim and x.shape[-1] == w.shape[1]:
            hint = "; a weight [out, in] as PyTorch has it needs w.T"
        msg = (
            f"x of shape {x.shape} and w of shape {w.shape} do not fit: expected "
            f"[..., in] and [in, out]{hint}"
        )
        raise ValueError(msg)
    check_layer(x, w, b, w.shape[1])
    return x, w, b
