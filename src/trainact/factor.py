r"""A and λ -> a factor, and what a factor does to a gradient.

TrAct multiplies the weight gradient by :math:`(X^\top X / b + \lambda I)^{-1}` from the
right (Eq. 10). Two algebraically equal forms, chosen from the shapes:

*Primal*, at least as many rows as entries. The P x P inverse itself is kept, from a
Cholesky factorisation in float64: one multiplication applies it.

*Dual*, fewer rows than entries. No P x P matrix exists. A gradient
:math:`G = \nabla_z^\top X` lies in the span of the rows, of which a Cholesky factor of
the N x N matrix :math:`X X^\top = L L^\top` gives an orthonormal basis
:math:`U = L^{-1} X`. In it A is :math:`L^\top L / b`, so that
:math:`G (A + \lambda I)^{-1} = (G U^\top) (L^\top L / b + \lambda I)^{-1} U`.
For a gradient that need not lie in the span (it may come from differentiating twice
through the input) L is taken of :math:`X X^\top + b \lambda I` instead and Woodbury's
identity reads :math:`G (A + \lambda I)^{-1} = (G - (G U^\top) U) / \lambda`.

Departures from the released code, and why:

1. It inverts with `torch.inverse`, which waits for the device; `cholesky_ex` does not,
   and only needs the matrix to be positive definite, which damping makes it.
2. Its dual form subtracts two nearly equal matrices; with one row of 60 unit entries
   that costs three digits at λ = 0.1, with larger inputs all of them. In the basis
   nothing
   cancels: what λ amplifies is the rounding of G inside the span alone.
3. A damping below the rounding of A's entries cannot be told from none: λ is taken as
   at least 8 eps x tr A, with the eps of the dtype in which the products were formed.
   For standardised inputs that is hundreds of times smaller than λ = 0.1 and changes
   nothing; for entries of size 10⁴ it is what keeps the system solvable. Should
   rounding win all the same, tr A x I takes the place of A: the update is too small,
   never NaN.

Legend: G groups, N rows, P entries of a row, O outputs of one group.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from trainact.damping import Lam, flatten, resolve
from trainact.kernels.choice import takes_inverse
from trainact.kernels.operators import damped_inverse
from trainact.precision import accumulation_dtype, product_dtype, statistics_dtype
from trainact.products import tile_bytes


class Factor(NamedTuple):
    """What is kept from the forward pass for the backward pass.

    Attributes:
        inner: primal ``[G, P, P]``, in the statistics' dtype; dual ``[G, N, N]``, in
            the wider dtype of the factorisation.
        basis: U of the dual form, ``[G, N, P]``; None in the primal form.
        outer: 1 / λ, what multiplies a gradient outside the span of the rows,
            ``[G, 1, 1]``; None where no gradient is.
    """

    inner: Tensor
    basis: Tensor | None = None
    outer: Tensor | None = None

    @property
    def num_entries(self) -> int:
        """Entries of a row, P."""
        return (self.inner if self.basis is None else self.basis).shape[-1]


def factorise(
    gram_GPP: Tensor,
    lam: Lam,
    dtype: torch.dtype,
    span_GNP: Tensor | None = None,
    num_rows: int = 1,
) -> Factor:
    r"""The primal form, :math:`(A + \lambda I)^{-1}`.

    Cost: about ``P**3`` multiplications per group in float64; no wait for the device.

    Args:
        gram_GPP: A, ``[G, P, P]``, or b times A.
        lam: :math:`\lambda`.
        dtype: in which A's products were formed, and in which the inverse is kept.
        span_GNP: rows, fewer than entries, of which every gradient to come is a
            combination; A may hold further ones. What a float32 gradient has outside
            their span is rounding, which the inverse would amplify by 1 / λ:
            :math:`U^\top U (A + \lambda I)^{-1}`, kept in A's dtype, takes it out.
        num_rows: b, where the matrix is b times A.

    Returns:
        The factor; NaN where A is not finite.
    """
    if span_GNP is None and takes_inverse(gram_GPP, dtype):
        number, relative = flatten(lam)
        inverse_GPP = damped_inverse(gram_GPP, num_rows, number, dtype, relative)
        return Factor(inverse_GPP)
    if num_rows != 1:
        gram_GPP = gram_GPP / num_rows
    lam_G = resolve(lam, _trace(gram_GPP), gram_GPP.shape[-1], dtype)
    inverse_GPP = torch.cholesky_inverse(_cholesky(gram_GPP, lam_G))
    if span_GNP is None:
        return Factor(inverse_GPP.to(dtype))
    wide = gram_GPP.dtype
    basis_GNP = _solve_rows(_span(_kernel(span_GNP, wide)), span_GNP, wide)
    return Factor(basis_GNP.mT @ (basis_GNP @ inverse_GPP))


def factorise_rows(rows_GNP: Tensor, lam: Lam, in_span: bool) -> Factor:
    r"""The dual form, :math:`U = L^{-1} X` and :math:`(L^\top L / b + \lambda I)^{-1}`.

    Cost: ``2 * N**2 * P`` multiplications per group in float64, and one copy of the
    rows.

    Args:
        rows_GNP: X, the rows of the unfolded batch, ``[G, N, P]`` with N < P.
        lam: :math:`\lambda`.
        in_span: whether every gradient to come is a combination of the rows, so that
            what lies outside is nothing but the rounding of G.

    Returns:
        The factor; NaN where X is not finite.
    """
    num_rows, num_entries = rows_GNP.shape[1:]
    dtype, wide = statistics_dtype(rows_GNP), accumulation_dtype(rows_GNP)
    kernel_GNN = _kernel(rows_GNP, wide)
    trace_G = _trace(kernel_GNN)
    lam_G = resolve(lam, trace_G / num_rows, num_entries, wide)
    # Rows that are nearly dependent put up to sqrt(eps) of G outside the computed span:
    # below the rounding of float32, but not of float64.
    if in_span and dtype != wide:
        lower_GNN = _span(kernel_GNN)
        damped_GNN = _cholesky(_outer(lower_GNN.mT) / num_rows, lam_G)
        inner_GNN = torch.cholesky_inverse(damped_GNN)
        return Factor(inner_GNN, _solve_rows(lower_GNN, rows_GNP, dtype))
    lower_GNN = _cholesky(kernel_GNN, num_rows * lam_G)
    outer_G11 = (1 / lam_G)[:, None, None]
    inner_GNN = -outer_G11 * torch.eye(num_rows, dtype=wide, device=rows_GNP.device)
    return Factor(
        inner_GNN, _solve_rows(lower_GNN, rows_GNP, dtype), outer_G11.to(dtype)
    )


def apply_factor(
    grad: Tensor, inner: Tensor, basis: Tensor | None, outer: Tensor | None
) -> Tensor:
    r"""Multiply a weight gradient by :math:`(X^\top X / b + \lambda I)^{-1}`.

    Cost: ``O * P**2`` (primal) or ``2 * O * N * P`` (dual) multiplications per group.

    Args:
        grad: G, of the weight's shape ``[groups * O, ...]``, P entries a row.
        inner: of the factor of the input that the gradient belongs to.
        basis: likewise.
        outer: likewise.

    Returns:
        The preconditioned gradient, in the shape and dtype of ``grad``.
    """
    entries = inner if basis is None else basis
    dtype = product_dtype(entries)
    grad_GOP = grad.reshape(len(inner), -1, entries.shape[-1]).to(dtype)
    if basis is None:
        result_GOP = grad_GOP @ inner.to(dtype)
    else:
        basis = basis.to(dtype)
        inside_GON = (grad_GOP @ basis.mT).to(inner.dtype) @ inner
        result_GOP = inside_GON.to(dtype) @ basis
        if outer is not None:
            result_GOP = result_GOP + outer * grad_GOP
    return result_GOP.reshape(grad.shape).to(grad.dtype)


def _span(kernel_GNN: Tensor) -> Tensor:
    """L of a basis of the rows, from X times X transposed."""
    num_rows, dtype = kernel_GNN.shape[-1], kernel_GNN.dtype
    return _cholesky(kernel_GNN, resolve(0.0, _trace(kernel_GNN), num_rows, dtype))


def _outer(matrix: Tensor) -> Tensor:
    return matrix @ matrix.mT


def _kernel(rows_GNP: Tensor, wide: torch.dtype) -> Tensor:
    """X times X transposed, ``[G, N, N]``."""
    groups, num_rows, _ = rows_GNP.shape
    total_GNN = rows_GNP.new_zeros(groups, num_rows, num_rows, dtype=wide)
    for tile in _wide_tiles(rows_GNP, wide):
        total_GNN += _outer(tile)
    return total_GNN


def _solve_rows(lower_GNN: Tensor, rows_GNP: Tensor, dtype: torch.dtype) -> Tensor:
    """Inverse of L times X, solved in L's dtype, kept in ``dtype``."""
    solved = [
        torch.linalg.solve_triangular(lower_GNN, tile, upper=False).to(dtype)
        for tile in _wide_tiles(rows_GNP, lower_GNN.dtype)
    ]
    return torch.cat(solved, dim=-1)


def _wide_tiles(rows_GNP: Tensor, wide: torch.dtype) -> Iterator[Tensor]:
    """Some columns at a time, so that no wide copy of all rows exists."""
    groups, num_rows, _ = rows_GNP.shape
    width = max(num_rows, tile_bytes(rows_GNP) // (8 * groups * num_rows))
    for tile in rows_GNP.split(width, dim=-1):
        yield tile.to(wide)


def _trace(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)


def _cholesky(matrix: Tensor, shift_G: Tensor) -> Tensor:
    """Cholesky factor of matrix + shift x I, or of trace x I where that has none."""
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    lower, info = torch.linalg.cholesky_ex(matrix + shift_G[:, None, None] * eye)
    # Not finite if the input was not: the step is then skipped as in ordinary training.
    bound_G11 = (_trace(matrix) + shift_G).sqrt()[:, None, None]
    return torch.where((info == 0)[:, None, None], lower, bound_G11 * eye)
