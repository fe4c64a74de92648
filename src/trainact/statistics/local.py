"""A layer's input -> the factor of this call, in the form that its shapes ask for."""

from __future__ import annotations

import torch
from torch import Tensor

from trainact.damping import Lam
from trainact.factor import Factor, factorise, factorise_rows
from trainact.geometry import Geometry
from trainact.gram import rows
from trainact.kernels.choice import may_take
from trainact.precision import full_precision, statistics_dtype
from trainact.statistics import operators as ops


@torch.no_grad()
def local_factor(x: Tensor, geometry: Geometry | None, lam: Lam) -> Factor:
    r"""Factor of one call of a layer, from its own input alone.

    Args:
        x: the layer's input, at least one row.
        geometry: of the layer, or None for a linear one.
        lam: :math:`\lambda`.

    Returns:
        The primal form for at least as many rows as entries, otherwise the dual form.
    """
    x = x.detach()  # no_grad stops reverse mode alone: torch.func.jvp would go on
    num_rows = rows.count_rows(x, geometry)
    with full_precision(x):
        if num_rows >= rows.count_entries(x, geometry):
            products_GPP = sum_products(x, geometry)
            dtype = statistics_dtype(x)
            return factorise(products_GPP, lam, dtype, num_rows=num_rows)
        if torch.compiler.is_compiling():
            return ops.dual_factor(x, geometry, lam)
        return factorise_rows(rows.extract_rows(x, geometry), lam)


def sum_products(x: Tensor, geometry: Geometry | None) -> Tensor:
    """Sum over the rows of their outer products, as one operator where it must be.

    That is in compiled code, and where a kernel may take over: it cannot read fake and
    batched tensors, the operator can.

    Args:
        x: the layer's input.
        geometry: of the layer, or None for a linear one.

    Returns:
        b times A, ``[G, P, P]``.
    """
    as_operator = torch.compiler.is_compiling() or may_take("products")
    source = ops if as_operator else rows
    return source.sum_products(x, geometry)
