"""What TrAct adds to a training step, counted: floating-point operations.

Not bounds but what the code does: `trainact.gram` for a Gram matrix, `factor` and
`statistics.ranks` for a system. A multiplication with its addition is two operations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.scaling_volumes import Stem, exchange
from trainact.gram.cost import cheapest_dim
from trainact.gram.matmul import SYMMETRIC_ENTRIES
from trainact.gram.shifted import make_layout


@dataclass(frozen=True)
class Work:
    """Operations of a step on one rank.

    Attributes:
        gram: products of rows with rows: of A, or of the dual form's b x b matrix.
        basis: products that a factor made from fewer rows than entries takes beyond.
        systems: factorisations, inverses and triangular solves in float64, as LAPACK
            counts them.
        apply: products of the gradient with the factor.
    """

    gram: int
    basis: int
    systems: int
    apply: int

    @property
    def products(self) -> int:
        """What a counter of matrix products sees."""
        return self.gram + self.basis + self.apply


def weight_gradient_flops(stem: Stem) -> int:
    """Operations of the layer's own weight gradient; its forward pass has as many.

    Args:
        stem: what is computed.

    Returns:
        Two for each row, entry and output.
    """
    return 2 * stem.rows * stem.entries * stem.outputs


def gram_flops(stem: Stem, device_type: str, dim: int | None) -> int:
    """Operations of A from this rank's rows.

    Args:
        stem: what is computed.
        device_type: such as ``"cpu"``, where symmetry is made use of.
        dim: the spatial dimension to shift along, None for explicit patches; see
            `trainact.gram.cost.cheapest_dim` for what is chosen.

    Returns:
        Those of matrix products.
    """
    if dim is not None:
        return _shifts_flops(stem, device_type, dim)
    return stem.rows * stem.groups * _self_product(stem.entries, device_type)


def _shifts_flops(stem: Stem, device_type: str, dim: int) -> int:
    layout = make_layout(stem.geometry, dim)
    outputs = stem.geometry.output_size(stem.shape[2:])
    size, reach = layout.line_entries, layout.num_border
    each = _self_product(size, device_type)
    for shift in layout.shifts[1:]:
        each += 2 * size * (layout.last_entries if shift == reach else size)
    border = 6 * (reach * size) ** 2
    columns = stem.shape[0] * math.prod(outputs) // outputs[dim]
    return stem.groups * columns * ((outputs[dim] - reach) * each + border)


def _self_product(size: int, device_type: str) -> int:
    """Operations of one column of a matrix times the matrix's transpose."""
    if size <= SYMMETRIC_ENTRIES or device_type != "cpu":
        return 2 * size**2
    upper = size - size // 2
    lower = size // 2
    blocks = _self_product(upper, device_type) + _self_product(lower, device_type)
    return 2 * upper * lower + blocks


def local_work(stem: Stem, device_type: str) -> Work:
    """Operations of a rank that keeps its statistics to itself.

    Args:
        stem: what is computed; float32 or 16-bit, an input without a gradient.
        device_type: such as ``"cpu"``.

    Returns:
        Of the primal form, or with fewer rows than entries of the dual one.
    """
    if stem.is_dual:
        return _dual_work(stem, device_type, stem.rows)
    dim = cheapest_dim(stem.geometry, stem.shape, device_type)
    return Work(
        gram=gram_flops(stem, device_type, dim),
        basis=0,
        systems=stem.groups * _inverse(stem.entries, device_type),
        apply=2 * stem.outputs * stem.entries**2,
    )


def synced_work(stem: Stem, device_type: str, all_rows: int) -> Work:
    """Operations of one of several ranks that share statistics; all factorise alike.

    Args:
        stem: what is computed; float32 or 16-bit, an input without a gradient.
        device_type: such as ``"cpu"``.
        all_rows: N, of all ranks.

    Returns:
        With few rows on this rank those of the projection on their span are in it.
    """
    if exchange(stem.entries, all_rows, 2) == "rows":
        return _dual_work(stem, device_type, all_rows)
    if not stem.is_dual:
        return local_work(stem, device_type)
    groups, size, few = stem.groups, stem.entries, stem.rows
    span = _cholesky(few) + few**2 * size
    return Work(
        gram=groups * few * _self_product(size, device_type),
        basis=groups * (2 * few**2 * size + 4 * few * size**2),
        systems=groups * (_inverse(size, device_type) + span),
        apply=2 * stem.outputs * size**2,
    )


def _dual_work(stem: Stem, device_type: str, num_rows: int) -> Work:
    groups, size, few = stem.groups, stem.entries, num_rows
    solve = few**2 * size
    return Work(
        gram=groups * 2 * few**2 * size,
        basis=groups * 2 * few**3,
        systems=groups * (_cholesky(few) + _inverse(few, device_type) + solve),
        apply=stem.outputs * (4 * few * size + 2 * few**2),
    )


def _cholesky(size: int) -> int:
    return size**3 // 3


def _inverse(size: int, device_type: str) -> int:
    """A Cholesky factorisation and the inverse from it."""
    # LAPACK inverts the triangle; on CUDA the identity is solved for.
    rest = 2 * size**3 // 3 if device_type == "cpu" else 2 * size**3
    return _cholesky(size) + rest
