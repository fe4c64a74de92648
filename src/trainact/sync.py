"""Statistics over all ranks: N devices compute the update of one device, exactly.

Gradients are averaged over ranks after each rank has applied its own inverse, and the
mean of G_r P_r is not the mean gradient times the inverse of the mean A unless all
ranks use one P. So A is summed over ranks, weighted by rows: one asynchronous
all-reduce of n x n numbers and the row count, started in the forward and awaited in the
backward, where the factorisation follows.

With many entries the row counts are exchanged first, which costs a wait; if there are
fewer rows than entries (the dual form), the rows are gathered instead of summed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.weak import TensorWeakRef

from trainact import rows
from trainact.factor import Factor, factorise, factorise_rows
from trainact.geometry import Geometry
from trainact.precision import (
    accumulation_dtype,
    full_precision,
    self_product,
    statistics_dtype,
)
from trainact.precondition import precondition as precondition_with
from trainact.sharded import apply_to_gradient
from trainact.statistics import sum_products
from trainact.torch_internals import backward_task, in_ddp_join, in_transform

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


class Pending:
    """The statistics of one call on their way around the ranks, and then its factor.

    Args:
        finish: waits for the other ranks and factorises.
        token: saved for the backward like any other tensor, and held by nobody else.
    """

    def __init__(self, finish: Callable[[], Factor], token: Tensor) -> None:
        self.used = False
        self._finish: Callable[[], Factor] | None = finish
        self._factor: Factor | None = None
        self._token = TensorWeakRef(token)

    @property
    def recomputable(self) -> bool:
        """Whether checkpointing has dropped what the call saved, to make it again."""
        return self._token() is None

    def factor(self) -> Factor:
        """Wait for the other ranks and factorise, once.

        Returns:
            The factor of all ranks' rows.
        """
        self.used = True
        if self._finish is not None:
            self._factor, self._finish = self._finish(), None
        return cast("Factor", self._factor)


class _PreconditionLater(torch.autograd.Function):
    """Identity forward; the backward waits for the statistics of all ranks."""

    @staticmethod
    def forward(weight: Tensor, token: Tensor, pending: Pending) -> Tensor:  # noqa: ARG004
        return weight.view_as(weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        _, token, ctx.pending = inputs
        ctx.save_for_backward(token)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grad_outputs
        with torch.autocast(grad.device.type, enabled=False):
            with torch.no_grad():
                factor = ctx.pending.factor()
            return apply_to_gradient(grad, factor), None, None


def precondition_over_ranks(
    weight: Tensor,
    x: Tensor,
    geometry: Geometry | None,
    lam: float,
    group: Group,
    owner: nn.Module,
) -> Tensor:
    r"""Pass the weight on; its gradient will be preconditioned with all ranks' rows.

    Every rank must make this call, also one that has no rows.

    Args:
        weight: of the layer.
        x: this rank's input; may be empty.
        geometry: of the layer, or None for a linear one.
        lam: :math:`\lambda`.
        group: to sum over.
        owner: the layer, by which a recomputed forward finds its first pass.

    Returns:
        The weight.

    Raises:
        RuntimeError: inside a `torch.func` transform or DDP's ``join``, where ranks
            would wait for each other forever.
    """
    is_wide = rows.count_entries(x, geometry) > MAX_SUMMED_ENTRIES
    if torch.compiler.is_compiling() and not is_wide:
        with torch.no_grad(), full_precision(x):
            factor = _start_sums(x, geometry, lam, group, wait=True)()
        return precondition_with(weight, factor)
    return _outside_of_graphs(weight, x, geometry, lam, group, owner)


def _precondition_later(
    weight: Tensor,
    x: Tensor,
    geometry: Geometry | None,
    lam: float,
    group: Group,
    owner: nn.Module,
) -> Tensor:
    _refuse_what_cannot_work()
    is_wide = rows.count_entries(x, geometry) > MAX_SUMMED_ENTRIES
    start = _start_rows if is_wide else _start_sums
    token = x.new_empty(0)
    pending = _first_pass(owner)
    if pending is None:
        pending = Pending(start(x, geometry, lam, group), token)
        _remember(owner, pending)
    return _PreconditionLater.apply(weight, token, pending)  # pyright: ignore[reportReturnType]


# Which form is right depends on the other ranks' rows, which a graph cannot ask for.
_outside_of_graphs: Any = torch.compiler.disable(_precondition_later)


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


@torch.no_grad()
def _start_sums(
    x: Tensor, geometry: Geometry | None, lam: float, group: Group, wait: bool = False
) -> Callable[[], Factor]:
    num_rows, dtype, span_GNP = rows.count_rows(x, geometry), statistics_dtype(x), None
    with full_precision(x):
        if not x.requires_grad and 0 < num_rows < rows.count_entries(x, geometry):
            span_GNP = rows.extract_rows(x.to(accumulation_dtype(x)), geometry)
            products_GPP = self_product(span_GNP.mT)
        else:
            products_GPP = sum_products(x, geometry)
    buffer = join_sums(products_GPP, num_rows)
    work = dist.all_reduce(buffer, group=group.group, async_op=not wait)

    def finish() -> Factor:
        if not wait and work is not None:
            work.wait()
        gram_GPP = split_sums(buffer, products_GPP.shape)
        return factorise(gram_GPP, lam, dtype, span_GNP)

    return finish


@torch.no_grad()
def _start_rows(
    x: Tensor, geometry: Geometry | None, lam: float, group: Group
) -> Callable[[], Factor]:
    num_rows = rows.count_rows(x, geometry)
    counts = gather_counts(num_rows, group, x.device)
    if sum(counts) >= rows.count_entries(x, geometry):
        return _start_sums(x, geometry, lam, group)
    with full_precision(x):
        rows_GNP = gather_rows(rows.extract_rows(x, geometry), counts, group)
        factor = factorise_rows(rows_GNP, lam, in_span=not x.requires_grad)
    return lambda: factor


def gather_counts(num_rows: int, group: Group, device: torch.device) -> list[int]:
    """Tell all ranks how many rows each has. Waits for them.

    Args:
        num_rows: this rank's.
        group: to tell.
        device: that the group's backend works on.

    Returns:
        Theirs, in the order of the ranks.
    """
    count = torch.tensor([num_rows], device=device)
    counts = [torch.zeros_like(count) for _ in range(dist.get_world_size(group.group))]
    dist.all_gather(counts, count, group=group.group)
    return [int(c) for c in counts]


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


_first_passes: weakref.WeakKeyDictionary[nn.Module, list[weakref.ref[Pending]]]
_first_passes = weakref.WeakKeyDictionary()


def _remember(owner: nn.Module, pending: Pending) -> None:
    alive = [ref for ref in _first_passes.get(owner, []) if ref() is not None]
    _first_passes[owner] = [*alive, weakref.ref(pending)]


def _first_pass(owner: nn.Module) -> Pending | None:
    """The statistics of the pass that this one recomputes, if it recomputes one."""
    # Activation checkpointing runs the forward again inside the backward. The
    # non-reentrant kind keeps the first pass's nodes, which hold the statistics that
    # count, without the tensors saved for them; what the second pass makes is dropped,
    # and a second collective would be one too many. The reentrant kind ran its first
    # pass without gradients: nothing is found.
    if backward_task() == -1:
        return None
    for ref in _first_passes.get(owner, []):
        pending = ref()
        if pending is not None and pending.recomputable and not pending.used:
            return pending
    return None


def _refuse_what_cannot_work() -> None:
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
