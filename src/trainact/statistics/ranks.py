"""Statistics over all ranks: N devices compute the update of one device, exactly.

Gradients are averaged over ranks after each rank has applied its own inverse, and the
mean of G_r P_r is not the mean gradient times the inverse of the mean A unless all
ranks use one P. So A is summed over ranks, weighted by rows: one all-reduce of n x n
numbers and the row count.

Ranks exchange statistics in the backward, where they exchange gradients: a forward that
only some ranks run and never differentiate takes no part. Compiled code exchanges them
in the forward, which all ranks must then run alike.

With many entries the row counts are exchanged first, which costs a wait; if there are
fewer rows than entries (the dual form), the rows are gathered instead of summed.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from trainact.damping import Damping
from trainact.factor import Factor, factorise, factorise_rows
from trainact.geometry import Geometry
from trainact.gram.matmul import self_product
from trainact.gram.patches import extract_patches
from trainact.precision import accumulation_dtype, full_precision, statistics_dtype
from trainact.precondition import MakeFactor, precondition, precondition_later
from trainact.span import Span
from trainact.statistics.call import Call
from trainact.statistics.group import (
    Group,
    gather_counts,
    gather_rows,
    join_sums,
    refuse_what_cannot_work,
    split_sums,
)
from trainact.statistics.local import Local
from trainact.statistics.operators import gram
from trainact.torch_internals import outside_graphs

# Up to this many entries A is summed whatever the number of rows; all ranks must choose
# alike, and the entries are the same on all of them.
MAX_SUMMED_ENTRIES = 1024


class OverRanks(Local):
    """Statistics of the rows of all ranks of a group.

    Every rank must differentiate every call, also one that has no rows. Inside a
    `torch.func` transform or DDP's ``join``, where ranks would wait for each other
    forever, a call raises a RuntimeError.
    """

    def __init__(self, group: Group) -> None:
        self.group = group

    def precondition(self, weight: Tensor, call: Call) -> Tensor:
        """The weight; see `trainact.statistics.call.Statistics`."""
        if self.group.is_alone():
            return super().precondition(weight, call)
        x, geometry, damping, span, _ = call
        is_wide = geometry.num_entries > MAX_SUMMED_ENTRIES
        make = partial(
            _factor_of_rows if is_wide else _factor_of_sums,
            geometry=geometry,
            damping=damping,
            group=self.group,
        )
        if torch.compiler.is_compiling() and not is_wide:
            with torch.no_grad(), full_precision(x):
                factor = make(x)
            return precondition(weight, factor, span)
        return _in_backward(weight, x, make, span)


@outside_graphs  # which form is right depends on the other ranks' rows
def _in_backward(weight: Tensor, x: Tensor, make: MakeFactor, span: Span) -> Tensor:
    refuse_what_cannot_work()
    return precondition_later(weight, x, make, span)


def _factor_of_sums(
    x: Tensor, geometry: Geometry, damping: Damping, group: Group
) -> Factor:
    num_rows, dtype, span_GNP = geometry.num_rows(x.shape), statistics_dtype(x), None
    if 0 < num_rows < geometry.num_entries:
        span_GNP = extract_patches(x.to(accumulation_dtype(x)), geometry)
        products_GPP = self_product(span_GNP.mT)
    else:
        products_GPP = gram(x, geometry)
    buffer = join_sums(products_GPP, num_rows)
    dist.all_reduce(buffer, group=group.group)
    gram_GPP = split_sums(buffer, products_GPP.shape)
    return factorise(gram_GPP, damping, dtype, span_GNP)


def _factor_of_rows(
    x: Tensor, geometry: Geometry, damping: Damping, group: Group
) -> Factor:
    num_rows = geometry.num_rows(x.shape)
    counts = [count for (count,) in gather_counts([num_rows], group, x.device)]
    if sum(counts) >= geometry.num_entries:
        return _factor_of_sums(x, geometry, damping, group)
    rows_GNP = gather_rows(extract_patches(x, geometry), counts, group)
    return factorise_rows(rows_GNP, damping)
