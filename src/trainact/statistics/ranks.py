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
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainact.damping import Lam
from trainact.factor import Factor, factorise, factorise_rows
from trainact.geometry import Geometry
from trainact.gram import rows
from trainact.gram.matmul import self_product
from trainact.later import MakeFactor, precondition_later
from trainact.precision import (
    accumulation_dtype,
    full_precision,
    statistics_dtype,
)
from trainact.precondition import precondition as precondition_with
from trainact.span import Span
from trainact.statistics.local import sum_products
from trainact.torch_internals import in_ddp_join, in_transform, outside_graphs

# Up to this many entries A is summed whatever the number of rows; all ranks must choose
# alike, and the entries are the same on all of them.
MAX_SUMMED_ENTRIES = 1024


class Group:
    """A process group that can stay on a layer that is copied or saved.

    Args:
        group: of `torch.distributed`, or None for the default one.
    """

    def __init__(self, group: Any = None) -> None:
        self.group = group

    def __deepcopy__(self, memo: Any) -> Group:
        return self

    def __reduce__(self) -> tuple[type[Group], tuple[()]]:
        # Processes end with the program: what is loaded again has the default group.
        return Group, ()

    def __repr__(self) -> str:
        return "True" if self.group is None else "<process group>"

    def is_alone(self) -> bool:
        """Whether there is nobody to exchange statistics with."""
        if not (dist.is_available() and dist.is_initialized()):
            return True
        return dist.get_world_size(self.group) == 1


def precondition_over_ranks(
    weight: Tensor,
    x: Tensor,
    geometry: Geometry | None,
    lam: Lam,
    group: Group,
    span: Span,
) -> Tensor:
    r"""Pass the weight on; its gradient will be preconditioned with all ranks' rows.

    Every rank must differentiate this call, also one that has no rows.

    Args:
        weight: of the layer.
        x: this rank's input; may be empty.
        geometry: of the layer, or None for a linear one.
        lam: :math:`\lambda`.
        group: to sum over.
        span: of this rank's rows.

    Returns:
        The weight.

    Raises:
        RuntimeError: inside a `torch.func` transform or DDP's ``join``, where ranks
            would wait for each other forever.
    """
    is_wide = rows.count_entries(x, geometry) > MAX_SUMMED_ENTRIES
    make = partial(
        _factor_of_rows if is_wide else _factor_of_sums,
        geometry=geometry,
        lam=lam,
        group=group,
    )
    if torch.compiler.is_compiling() and not is_wide:
        with torch.no_grad(), full_precision(x):
            factor = make(x)
        return precondition_with(weight, factor, span)
    return _in_backward(weight, x, make, span)


@outside_graphs  # which form is right depends on the other ranks' rows
def _in_backward(weight: Tensor, x: Tensor, make: MakeFactor, span: Span) -> Tensor:
    refuse_what_cannot_work()
    return precondition_later(weight, x, make, span)


def join_sums(products_GPP: Tensor, num_rows: int) -> Tensor:
    """Put the sums and the row count into one tensor, for one collective.

    Args:
        products_GPP: b times A.
        num_rows: b.

    Returns:
        A flat tensor.
    """
    count = products_GPP.new_full((1,), num_rows)
    return torch.cat([products_GPP.flatten(), count])


def split_sums(buffer: Tensor, shape: torch.Size) -> Tensor:
    """Undo `join_sums` after the reduction.

    Args:
        buffer: summed over ranks.
        shape: of the products.

    Returns:
        A; zero if no rank had a row.
    """
    return buffer[:-1].view(shape) / buffer[-1].clamp(min=1)


def _factor_of_sums(
    x: Tensor, geometry: Geometry | None, lam: Lam, group: Group
) -> Factor:
    num_rows, dtype, span_GNP = rows.count_rows(x, geometry), statistics_dtype(x), None
    if 0 < num_rows < rows.count_entries(x, geometry):
        span_GNP = rows.extract_rows(x.to(accumulation_dtype(x)), geometry)
        products_GPP = self_product(span_GNP.mT)
    else:
        products_GPP = sum_products(x, geometry)
    buffer = join_sums(products_GPP, num_rows)
    dist.all_reduce(buffer, group=group.group)
    return factorise(split_sums(buffer, products_GPP.shape), lam, dtype, span_GNP)


def _factor_of_rows(
    x: Tensor, geometry: Geometry | None, lam: Lam, group: Group
) -> Factor:
    gathered = gather_counts([rows.count_rows(x, geometry)], group, x.device)
    counts = [count for (count,) in gathered]
    if sum(counts) >= rows.count_entries(x, geometry):
        return _factor_of_sums(x, geometry, lam, group)
    rows_GNP = gather_rows(rows.extract_rows(x, geometry), counts, group)
    return factorise_rows(rows_GNP, lam)


def gather_counts(
    numbers: list[int], group: Group, device: torch.device
) -> list[list[int]]:
    """Tell all ranks some numbers, such as how many rows each has. Waits for them.

    Args:
        numbers: this rank's.
        group: to tell.
        device: that the group's backend works on.

    Returns:
        Theirs, in the order of the ranks.
    """
    own = torch.tensor(numbers, device=device)
    parts = [torch.zeros_like(own) for _ in range(dist.get_world_size(group.group))]
    dist.all_gather(parts, own, group=group.group)
    return [part.tolist() for part in parts]


def gather_rows(rows_GNP: Tensor, counts: list[int], group: Group) -> Tensor:
    """Collect the rows of all ranks.

    Args:
        rows_GNP: this rank's.
        counts: how many each rank has.
        group: to collect over.

    Returns:
        Theirs, in the order of the ranks; a row of zeros in place of no rows at all.
    """
    groups, num_rows, size = rows_GNP.shape
    padded = rows_GNP.new_zeros(groups, max(1, *counts), size)
    padded[:, :num_rows] = rows_GNP
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded, group=group.group)
    if sum(counts) == 0:
        return parts[0]
    return torch.cat([p[:, :n] for p, n in zip(parts, counts, strict=True)], dim=1)


def refuse_what_cannot_work() -> None:
    """Refuse to exchange statistics where ranks would wait for each other forever.

    Raises:
        RuntimeError: inside a `torch.func` transform or DDP's ``join``.
    """
    if torch.compiler.is_compiling():
        return
    if in_transform():
        msg = (
            "TrAct with sync=True cannot exchange statistics inside a torch.func "
            "transform: use sync=False there"
        )
        raise RuntimeError(msg)
    if in_ddp_join():
        msg = (
            "TrAct with sync=True does not work inside DDP's join(): a rank that has "
            "run out of batches takes no part in the sum of the statistics, and the "
            "others would wait for it forever. Give such ranks empty batches, or use "
            "sync=False"
        )
        raise RuntimeError(msg)
