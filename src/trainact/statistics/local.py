"""Each call's own statistics: its input -> its factor."""

from __future__ import annotations

import torch
from torch import Tensor

from trainact.damping import Damping
from trainact.factor import Factor, factorise, factorise_rows
from trainact.geometry import Geometry
from trainact.gram.patches import extract_patches
from trainact.precision import full_precision, statistics_dtype
from trainact.precondition import precondition
from trainact.statistics import operators
from trainact.statistics.call import Call


class Local:
    """Statistics of this call's rows alone, as in the paper's code."""

    def precondition(self, weight: Tensor, call: Call) -> Tensor:
        """The weight; see `trainact.statistics.call.Statistics`."""
        if call.x.numel() == 0:
            return weight
        factor = local_factor(call.x, call.geometry, call.damping)
        return precondition(weight, factor, call.span)


@torch.no_grad()
def local_factor(x: Tensor, geometry: Geometry, damping: Damping) -> Factor:
    """Factor of one call of a layer, from its own input of at least one row.

    The primal form for at least as many rows as entries, otherwise the dual form.
    """
    x = x.detach()  # no_grad stops reverse mode alone: torch.func.jvp would go on
    num_rows = geometry.num_rows(x.shape)
    with full_precision(x):
        if num_rows >= geometry.num_entries:
            products_GPP = operators.gram(x, geometry)
            dtype = statistics_dtype(x)
            return factorise(products_GPP, damping, dtype, num_rows=num_rows)
        if torch.compiler.is_compiling():
            return operators.dual_factor(x, geometry, damping)
        return factorise_rows(extract_patches(x, geometry), damping)
