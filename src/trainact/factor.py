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
A gradient that does not lie in the span has a second term,
:math:`(G - (G U^\top) U) / \lambda`. `trainact.span` decides whether it is added.

Departures from the released code, and why:

1. It inverts with `torch.inverse`, which waits for the device; `cholesky_ex` does not,
   and only needs the matrix to be positive definite, which damping makes it.
2. Its dual form subtracts two nearly equal matrices; with one row of 60 unit entries
   that costs three digits at λ = 0.1, with larger inputs all of them. In the basis
   nothing cancels: what λ amplifies is the rounding of G inside the span alone. One
   Cholesky factor leaves U orthonormal to sqrt(eps) where rows are nearly dependent.
   That is below float32's rounding; where U is kept in the dtype of the factorisation,
   a second factor, of U times U transposed, mends it.
3. Where A has no information λ is all that is left, and it must not be lost in the
   rounding of A's entries: it is taken as at least eps / 4 x tr A, with the eps of the
   dtype in which the products were formed, and as at least 8 eps x tr A with that of
   the factorisation. Measured (CPU, 3x3 to 16x16 kernels, both routes), photographs,
   also upsampled 32 times, are positive definite from 0.21 eps x tr A on. Synthetic
   ramps, alone or the same in all images, need up to 1.0. Should rounding win as
   there, tr A x I takes the place of A, which is right along the mean patch and too
   small elsewhere, never NaN. For standardised inputs the bound is tens of thousands
   of times smaller than λ = 0.1; of pixels in [0, 255] it is 0.08 for a 7x7 kernel
   (8 eps, as it was, made 0.1 act as 2.5) and 0.4 for 16x16 patches.
4. Outside the span of fewer rows than entries an ordinary gradient has nothing but its
   rounding, which the inverse would multiply by 1 / λ. See `trainact.span`.

Legend: G groups, N rows, P entries of a row, O outputs of one group.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from trainact.damping import Damping, DampingWarning, resolution
from trainact.gram.matmul import tile_bytes
from trainact.kernels.choice import takes_inverse
from trainact.kernels.operators import damped_inverse
from trainact.precision import accumulation_dtype, product_dtype, statistics_dtype
from trainact.torch_internals import is_readable


class Factor(NamedTuple):
    """What is kept from the forward pass for the backward pass.

    Attributes:
        inner: primal ``[G, P, P]``, in the statistics' dtype; dual ``[G, N, N]``, in
            the wider dtype of the factorisation.
        basis: U of the dual form, ``[G, N, P]``; None in the primal form.
        outer: what multiplies the part of a gradient outside the span of the rows: 1 /
            λ in the dual form, ``[G, 1, 1]``. In the primal form, where a rank's rows
            are few, ``[G, P, P]`` for the whole gradient. None where no gradient has
            such a part.
    """

    inner: Tensor
    basis: Tensor | None = None
    outer: Tensor | None = None

    @property
    def num_entries(self) -> int:
        """Entries of a row, P."""
        return (self.inner if self.basis is None else self.basis).shape[-1]

    def in_span(self) -> Factor:
        """The factor for gradients that are combinations of the rows."""
        return self._replace(outer=None)

    def transposed(self) -> Factor:
        """The factor whose product with a weight has this one's as its derivative."""
        outer = None if self.outer is None else self.outer.mT
        return Factor(self.inner.mT, self.basis, outer)


def factorise(
    gram_GPP: Tensor,
    damping: Damping,
    dtype: torch.dtype,
    span_GNP: Tensor | None = None,
    num_rows: int = 1,
) -> Factor:
    r"""The primal form, :math:`(A + \lambda I)^{-1}`; NaN where A is not finite.

    ``gram_GPP`` is ``num_rows`` times A; ``dtype`` is that in which its products were
    formed, and in which the inverse is kept. Cost: about ``P**3`` multiplications per
    group in float64; no wait for the device.

    With ``span_GNP``, fewer rows than entries of which an ordinary gradient is a
    combination (A may hold further rows), the inverse is kept in two parts in A's
    dtype: :math:`U^\top U (A + \lambda I)^{-1}`, which removes what a gradient has
    outside their span, and the rest.
    """
    _warn_once_if_raised(damping, gram_GPP, num_rows, dtype)
    if span_GNP is None and takes_inverse(gram_GPP, dtype):
        lam, relative = damping.lam, damping.relative
        return Factor(damped_inverse(gram_GPP, num_rows, lam, dtype, relative))
    if num_rows != 1:
        gram_GPP = gram_GPP / num_rows
    lam_G = resolve(damping, _trace(gram_GPP), gram_GPP.shape[-1], dtype)
    inverse_GPP = torch.cholesky_inverse(_cholesky(gram_GPP, lam_G))
    if span_GNP is None:
        return Factor(inverse_GPP.to(dtype))
    wide = gram_GPP.dtype
    _, basis_GNP = _decompose(span_GNP, wide, twice=dtype == wide)
    inside_GPP = basis_GNP.mT @ (basis_GNP @ inverse_GPP)
    return Factor(inside_GPP, outer=inverse_GPP - inside_GPP)


def factorise_rows(rows_GNP: Tensor, damping: Damping) -> Factor:
    r"""The dual form, :math:`U = L^{-1} X` and :math:`(L^\top L / b + \lambda I)^{-1}`.

    For rows ``[G, N, P]`` with N < P; NaN where they are not finite. Cost:
    ``2 * N**2 * P`` multiplications per group in float64, twice that for float64 rows,
    and one copy of the rows.
    """
    num_rows, num_entries = rows_GNP.shape[1:]
    dtype = statistics_dtype(rows_GNP)
    wide = accumulation_dtype(rows_GNP)
    lower_GNN, basis_GNP = _decompose(rows_GNP, dtype, twice=dtype == wide)
    gram_GNN = lower_GNN.mT @ lower_GNN / num_rows
    lam_G = resolve(damping, _trace(gram_GNN), num_entries, gram_GNN.dtype)
    inner_GNN = torch.cholesky_inverse(_cholesky(gram_GNN, lam_G))
    return Factor(inner_GNN, basis_GNP, (1 / lam_G)[:, None, None])


def apply_factor(
    grad: Tensor,
    inner: Tensor,
    basis: Tensor | None = None,
    outer: Tensor | None = None,
) -> Tensor:
    r"""Multiply a weight gradient by :math:`(X^\top X / b + \lambda I)^{-1}`.

    ``grad`` has the weight's shape ``[G * O, ...]`` with P entries a row; the result
    has its shape and dtype. The other arguments are a `Factor`'s; without ``outer`` the
    gradient is taken to lie in the span of the rows. Cost: ``O * P**2`` (primal) or
    ``2 * O * N * P`` (dual) multiplications per group; half as much again, or twice as
    much, with ``outer``.
    """
    entries = inner if basis is None else basis
    dtype = product_dtype(entries)
    grad_GOP = grad.reshape(len(inner), -1, entries.shape[-1]).to(dtype)
    if basis is None:
        result_GOP = grad_GOP @ inner.to(dtype)
        if outer is not None:
            result_GOP = result_GOP + grad_GOP @ outer.to(dtype)
    else:
        basis = basis.to(dtype)
        inside_GON = grad_GOP @ basis.mT
        result_GOP = (inside_GON.to(inner.dtype) @ inner).to(dtype) @ basis
        if outer is not None:
            result_GOP = result_GOP + outer * (grad_GOP - inside_GON @ basis)
    return result_GOP.reshape(grad.shape).to(grad.dtype)


def resolve(
    damping: Damping, trace_G: Tensor, num_entries: int, dtype: torch.dtype
) -> Tensor:
    """What is added to the diagonal of A, ``[G]``: λ, or more where rounding needs it.

    At least `trainact.damping.resolution` times tr A, where ``dtype`` is that in which
    A's products were formed and ``trace_G`` has the dtype of the factorisation. A
    relative λ is taken as it is where tr A is zero, since zeros have no scale.
    """
    products = torch.finfo(dtype)
    wanted_G = torch.full_like(trace_G, max(damping.lam, products.tiny))
    if damping.relative:
        scaled_G = trace_G * (damping.lam / num_entries)
        wanted_G = torch.where(trace_G > 0, scaled_G.clamp(min=products.tiny), wanted_G)
    least = resolution(products.eps, torch.finfo(trace_G.dtype).eps)
    return torch.maximum(least * trace_G, wanted_G)


_checked: set[tuple[int, torch.dtype, torch.device]] = set()


def _warn_once_if_raised(
    damping: Damping, products_GPP: Tensor, num_rows: int, dtype: torch.dtype
) -> None:
    """Say that `resolve` takes a larger λ than was set.

    Reads the first matrix of each number of entries, dtype and device, which waits for
    the device, and none after it. Silent where no value can be read: in compiled code,
    in transforms and while a CUDA graph is captured.
    """
    if torch.compiler.is_compiling():
        return
    size = products_GPP.shape[-1]
    key = (size, dtype, products_GPP.device)
    if key in _checked or not is_readable(products_GPP):
        return
    _checked.add(key)
    trace = _trace(products_GPP).max().item() / num_rows
    wanted = damping.lam * trace / size if damping.relative else damping.lam
    wide = torch.finfo(products_GPP.dtype)
    least = resolution(torch.finfo(dtype).eps, wide.eps) * trace
    if wanted < least < math.inf:
        msg = (
            f"lam={wanted:.3g} is below what float32 sums can resolve for inputs of "
            f"mean square {trace / size:.3g}, so {least:.3g} is used in its place: "
            "standardise the inputs, or set relative=True"
        )
        warnings.warn(msg, DampingWarning, stacklevel=2)


def _decompose(
    rows_GNP: Tensor, dtype: torch.dtype, *, twice: bool
) -> tuple[Tensor, Tensor]:
    """L and U of X = L U, where the rows of U, kept in ``dtype``, are orthonormal."""
    lower_GNN, _ = _cholesky_of_rows(rows_GNP)
    basis_GNP = _solve_rows(lower_GNN, rows_GNP, dtype)
    if twice:  # departure 2
        again_GNN, shift_G = _cholesky_of_rows(basis_GNP)
        # The shift has made orthonormal rows shorter by a known factor.
        stretch_G11 = (1 + shift_G).sqrt()[:, None, None]
        lower_GNN = lower_GNN @ again_GNN / stretch_G11
        basis_GNP = _solve_rows(again_GNN, basis_GNP, dtype) * stretch_G11
    return lower_GNN, basis_GNP


def _cholesky_of_rows(rows_GNP: Tensor) -> tuple[Tensor, Tensor]:
    """L of XXᵀ, and what was added to its diagonal, since rows may be dependent."""
    groups, num_rows, _ = rows_GNP.shape
    wide = accumulation_dtype(rows_GNP)
    total_GNN = rows_GNP.new_zeros(groups, num_rows, num_rows, dtype=wide)
    for tile in _wide_tiles(rows_GNP, wide):
        total_GNN += tile @ tile.mT
    shift_G = resolve(Damping(0.0), _trace(total_GNN), num_rows, wide)
    return _cholesky(total_GNN, shift_G), shift_G


def _solve_rows(lower_GNN: Tensor, rows_GNP: Tensor, dtype: torch.dtype) -> Tensor:
    """L⁻¹X, solved in L's dtype, kept in ``dtype``."""
    solved = [
        torch.linalg.solve_triangular(lower_GNN, tile, upper=False).to(dtype)
        for tile in _wide_tiles(rows_GNP, lower_GNN.dtype)
    ]
    return torch.cat(solved, dim=-1)


def _wide_tiles(rows_GNP: Tensor, wide: torch.dtype) -> Iterator[Tensor]:
    """A few columns at a time, so that no wide copy of all rows exists."""
    groups, num_rows, _ = rows_GNP.shape
    width = max(num_rows, tile_bytes(rows_GNP) // (8 * groups * num_rows))
    for tile in rows_GNP.split(width, dim=-1):
        yield tile.to(wide)


def _trace(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)


def _cholesky(matrix: Tensor, shift_G: Tensor) -> Tensor:
    """Cholesky factor of matrix + shift x I, or of (trace + shift) x I without one."""
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    lower, info = torch.linalg.cholesky_ex(matrix + shift_G[:, None, None] * eye)
    # Not finite if the input was not: the step is then skipped as in ordinary training.
    bound_G11 = (_trace(matrix) + shift_G).sqrt()[:, None, None]
    return torch.where((info == 0)[:, None, None], lower, bound_G11 * eye)
