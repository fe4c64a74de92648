r"""A, λ -> a factor, and what a factor does to a gradient.

TrAct multiplies the weight gradient by :math:`(X^\top X / b + \lambda I)^{-1}`
(Eq. 10). The two forms, their stability and the smallest damping are those of
`trainact.factor`, which derives them:

*Primal*, at least as many rows as entries, :math:`A + \lambda I = L L^\top` in
float64. A gradient is solved with L and its transpose, also in float64: that takes half
the time of an inverse, whose rounding to float32 would add as much as the gradient's.

*Dual*, fewer rows than entries, :math:`X X^\top = L L^\top`, :math:`U = L^{-1} X`.
For a gradient in the span of the rows, which an ordinary one is,
:math:`G (A + \lambda I)^{-1} = (G U^\top) (L^\top L / b + \lambda I)^{-1} U`, and
what float32 rounding puts outside the span is dropped. A derivative of something that
was itself differentiated with respect to the input (a gradient penalty, a directional
derivative) need not lie in the span: for it :math:`(G - G U^\top U) / \lambda` is
added.
With float64 inputs L is taken of :math:`X X^\top + b \lambda I` instead and
:math:`G (A + \lambda I)^{-1} = (G - G U^\top U) / \lambda` at once.

Legend: G groups, N rows, P entries of a row, O outputs of one group.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from trainact.damping import Damping, resolution
from trainact.jax.matmul import sum_over, tile_bytes
from trainact.jax.precision import (
    Dtype,
    accumulation_dtype,
    cast,
    float64_allowed,
    product,
)


class Factor(NamedTuple):
    """What is kept from the forward pass for the backward pass; a pytree.

    Attributes:
        inner: in the dtype of the factorisation; primal L, ``[G, P, P]``; dual
            ``[G, N, N]``.
        basis: U of the dual form, ``[G, N, P]``; None in the primal form.
        outer: 1 / λ, ``[G, 1, 1]``; None in the primal form.
    """

    inner: Array
    basis: Array | None = None
    outer: Array | None = None

    @property
    def groups(self) -> int:
        """Number of groups, G."""
        return self.inner.shape[0]

    @property
    def num_entries(self) -> int:
        """Entries of a row, P."""
        return (self.inner if self.basis is None else self.basis).shape[-1]


def factorise_gram(gram_GPP: Array, damping: Damping, dtype: Dtype) -> Factor:
    r"""The primal form, :math:`(A + \lambda I)^{-1}`.

    Cost: about ``P**3 / 6`` multiplications per group.

    Args:
        gram_GPP: A, in the dtype of the factorisation.
        damping: :math:`\lambda`.
        dtype: in which A's products were formed; the smallest damping depends on it.

    Returns:
        The factor; NaN where A is not finite.
    """
    with float64_allowed(gram_GPP.dtype):
        lam_G = resolve(damping, _trace(gram_GPP), gram_GPP.shape[-1], dtype)
        return Factor(_cholesky(gram_GPP, lam_G))


def factorise_rows(rows_GNP: Array, damping: Damping) -> Factor:
    r"""The dual form.

    Cost: ``2 * N**2 * P`` multiplications per group, and one copy of the rows.

    Args:
        rows_GNP: X, ``[G, N, P]`` with N < P, float32 or float64.
        damping: :math:`\lambda`.

    Returns:
        The factor; NaN where X is not finite.
    """
    dtype, (_, num_rows, num_entries) = rows_GNP.dtype, rows_GNP.shape
    wide = accumulation_dtype(dtype)
    with float64_allowed(wide):
        kernel_GNN = _kernel(rows_GNP, wide)
        trace_G = _trace(kernel_GNN)
        lam_G = resolve(damping, trace_G / num_rows, num_entries, wide)
        if dtype == np.float64:
            lower_GNN = _cholesky(kernel_GNN, num_rows * lam_G)
            eye_GNN = cast(_is_diagonal(kernel_GNN), wide)
            inner_GNN = -eye_GNN / lam_G[:, None, None]
        else:
            least_G = resolve(Damping(0.0), trace_G, num_rows, wide)
            lower_GNN = _cholesky(kernel_GNN, least_G)
            gram_GNN = product(lower_GNN, lower_GNN, (1, 1)) / num_rows
            inner_GNN = _inverse(_cholesky(gram_GNN, lam_G))
        basis_GNP = _solve_rows(lower_GNN, rows_GNP)
        return Factor(inner_GNN, basis_GNP, cast((1 / lam_G)[:, None, None], dtype))


@jax.custom_jvp
def apply_factor(grad_GOP: Array, factor: Factor, leaves_span: Array) -> Array:
    r"""Multiply a weight gradient by :math:`(X^\top X / b + \lambda I)^{-1}`.

    Cost: ``O * P**2`` (primal) or ``2 * O * N * P`` (dual) multiplications per group.

    Args:
        grad_GOP: G, any floating dtype.
        factor: of the input that the gradient belongs to; constant for derivatives.
        leaves_span: whether the gradient has true parts outside the span of the rows,
            a bool scalar.

    Returns:
        The preconditioned gradient, in the dtype of ``grad_GOP``.
    """
    if factor.outer is None or factor.outer.dtype == np.float64:
        return _apply(grad_GOP, factor, anywhere=False)
    forms = (partial(_apply, anywhere=anywhere) for anywhere in (True, False))
    return lax.cond(leaves_span, *forms, grad_GOP, factor)


@apply_factor.defjvp
def _apply_jvp(
    primals: tuple[Array, Factor, Array], tangents: tuple[Array, Factor, Array]
) -> tuple[Array, Array]:
    result = apply_factor(*primals)
    return result, _apply(tangents[0], primals[1], anywhere=True)


def _apply(grad_GOP: Array, factor: Factor, anywhere: bool) -> Array:
    """Also for a gradient that need not lie in the span of the rows."""
    inner, basis, outer = factor
    wide = inner.dtype
    with float64_allowed(wide):
        if basis is None:
            solve = partial(lax.linalg.triangular_solve, inner, lower=True)
            result = solve(solve(cast(grad_GOP, wide), transpose_a=True))
            return cast(result, grad_GOP.dtype)
        dtype = basis.dtype
        grad = cast(grad_GOP, dtype)
        inside_GON = product(grad, basis, (2, 2))
        result = cast(product(cast(inside_GON, wide), inner, (2, 1)), dtype)
        is_damped = dtype == np.float64  # as factorise_rows has it
        if outer is not None and (anywhere or is_damped):
            if not is_damped:
                result -= outer * inside_GON
            return cast(product(result, basis, (2, 1)) + outer * grad, grad_GOP.dtype)
        return cast(product(result, basis, (2, 1)), grad_GOP.dtype)


def resolve(damping: Damping, trace_G: Array, num_entries: int, dtype: Dtype) -> Array:
    r"""Say what is added to the diagonal of A.

    Args:
        damping: :math:`\lambda`.
        trace_G: tr A, in the dtype of the factorisation.
        num_entries: n.
        dtype: in which A's products were formed.

    Returns:
        At least `trainact.damping.resolution` times tr A, ``[G]``. Nothing but zeros
        has no size: there a relative λ is taken as it is.
    """
    products, factorisation = np.finfo(dtype), np.finfo(trace_G.dtype)
    number = jnp.asarray(damping.lam).astype(trace_G.dtype)
    wanted_G = jnp.broadcast_to(number, trace_G.shape)
    if damping.relative:
        wanted_G = jnp.where(trace_G > 0, wanted_G * (trace_G / num_entries), wanted_G)
    least = resolution(float(products.eps), float(factorisation.eps))
    floor_G = jnp.maximum(least * trace_G, float(products.tiny))
    return jnp.maximum(floor_G, wanted_G)


def _kernel(rows_GNP: Array, wide: Dtype) -> Array:
    """X times X transposed, some columns at a time."""
    tiles = _column_tiles(rows_GNP, wide)

    def term(tile: Array | int) -> Array:
        part = cast(lax.dynamic_index_in_dim(tiles, tile, keepdims=False), wide)
        return product(part, part, (2, 2))

    return sum_over(term, len(tiles), rows_GNP)


def _solve_rows(lower_GNN: Array, rows_GNP: Array) -> Array:
    """Inverse of L times X, solved in L's dtype, kept in that of X."""
    wide, dtype = lower_GNN.dtype, rows_GNP.dtype

    def solve(part: Array) -> Array:
        return cast(_solve(lower_GNN, cast(part, wide)), dtype)

    tiles = _column_tiles(rows_GNP, wide)
    solved = solve(tiles[0])[None] if len(tiles) == 1 else lax.map(solve, tiles)
    basis = jnp.moveaxis(solved, 0, 2).reshape(*rows_GNP.shape[:2], -1)
    return basis[:, :, : rows_GNP.shape[2]]


def _column_tiles(rows_GNP: Array, wide: Dtype) -> Array:
    """Some columns at a time, ``[tiles, G, N, width]``; no wide copy of all exists."""
    groups, num_rows, entries = rows_GNP.shape
    width = max(num_rows, tile_bytes() // (wide.itemsize * groups * num_rows))
    count = max(1, -(-entries // width))
    width = -(-entries // count)
    padded = jnp.pad(rows_GNP, ((0, 0), (0, 0), (0, count * width - entries)))
    return jnp.moveaxis(padded.reshape(groups, num_rows, count, width), 2, 0)


def _trace(matrix_GPP: Array) -> Array:
    return jnp.where(_is_diagonal(matrix_GPP), matrix_GPP, 0).sum((-2, -1))


def _is_diagonal(matrix_GPP: Array) -> Array:
    row, column = (lax.broadcasted_iota("int32", matrix_GPP.shape, a) for a in (1, 2))
    return row == column


def _cholesky(matrix: Array, shift_G: Array) -> Array:
    """Cholesky factor of matrix + shift x I, or of trace x I where that has none."""
    eye = cast(_is_diagonal(matrix), matrix.dtype)
    shifted = matrix + shift_G[:, None, None] * eye
    lower = lax.linalg.cholesky(shifted, symmetrize_input=False)
    # Not finite if the input was not: as in ordinary training.
    bound_G11 = jnp.sqrt(_trace(matrix) + shift_G)[:, None, None]
    is_good_G = jnp.all(jnp.isfinite(lower), axis=(-2, -1))
    return jnp.where(is_good_G[:, None, None], lower, bound_G11 * eye)


def _solve(lower: Array, right: Array) -> Array:
    return lax.linalg.triangular_solve(lower, right, left_side=True, lower=True)


def _inverse(lower: Array) -> Array:
    """Inverse of L times L transposed."""
    half = _solve(lower, cast(_is_diagonal(lower), lower.dtype))
    return product(half, half, (1, 1))
