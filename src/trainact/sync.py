"""Statistics over all ranks: N devices compute the update of one device, exactly.

Gradients are averaged over ranks after each rank has applied its own inverse, and the
mean of G_r P_r is not the mean gradient times the inverse of the mean A unless all
ranks use one P. So A is summed over ranks, weighted by rows: one asynchronous
all-reduce of n x n numbers and the row count, started in the forward and awaited in the
backward, where the factorisation follows.

With many entries and few rows (the dual form) the rows are gathered instead, which
costs a wait for the row counts.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainact import rows
from trainact.factor import Factor, apply_factor, factorise, factorise_rows
from trainact.geometry import Geometry
from trainact.patches import accumulation_dtype, statistics_dtype
from trainact.precondition import in_transform
from trainact.precondition import precondition as precondition_with
from trainact.statistics import sum_products

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
    """The sums of one call on their way around the ranks, and then its factor.

    Args:
        x: the layer's input.
        geometry: of the layer, or None for a linear one.
        lam: damping.
        group: to sum over.
    """

    def __init__(
        self, x: Tensor, geometry: Geometry | None, lam: float, group: Group
    ) -> None:
        products_GPP = sum_products(x, geometry)
        self.shape = products_GPP.shape
        self.dtype = statistics_dtype(x)
        self.lam = lam
        self.input = weakref.ref(x)
        self.used = False
        self._buffer = join_sums(products_GPP, rows.count_rows(x, geometry))
        self._work = dist.all_reduce(self._buffer, group=group.group, async_op=True)
        self._factor: Factor | None = None

    def factor(self) -> Factor:
        """Wait for the sums and factorise them, once.

        Returns:
            The factor of all ranks' rows.
        """
        self.used = True
        if self._factor is None:
            self._work.wait()
            gram_GPP = split_sums(self._buffer, self.shape)
            self._factor = factorise(gram_GPP, self.lam, self.dtype)
        return self._factor


class _PreconditionLater(torch.autograd.Function):
    """Identity forward; the backward waits for the sums of all ranks."""

    @staticmethod
    def forward(weight: Tensor, pending: Pending) -> Tensor:  # noqa: ARG004
        return weight.view_as(weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        ctx.pending = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (grad,) = grad_outputs
        with torch.autocast(grad.device.type, enabled=False):
            with torch.no_grad():
                factor = ctx.pending.factor()
            return apply_factor(grad, *factor), None


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
    _refuse_what_cannot_work()
    if rows.count_entries(x, geometry) > MAX_SUMMED_ENTRIES:
        factor = _factor_of_gathered_rows(x, geometry, lam, group)
        return precondition_with(weight, factor)
    if torch.compiler.is_compiling():
        return precondition_with(weight, _factor_now(x, geometry, lam, group))
    pending = _first_pass(owner, x)
    if pending is None:
        with torch.no_grad(), rows.full_precision(x):
            pending = Pending(x, geometry, lam, group)
        _remember(owner, pending)
    return _PreconditionLater.apply(weight, pending)  # pyright: ignore[reportReturnType]


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
def _factor_now(
    x: Tensor, geometry: Geometry | None, lam: float, group: Group
) -> Factor:
    with rows.full_precision(x):
        products_GPP = sum_products(x, geometry)
        buffer = join_sums(products_GPP, rows.count_rows(x, geometry))
        dist.all_reduce(buffer, group=group.group)
        gram_GPP = split_sums(buffer, products_GPP.shape)
        return factorise(gram_GPP, lam, statistics_dtype(x))


@torch.no_grad()
def _factor_of_gathered_rows(
    x: Tensor, geometry: Geometry | None, lam: float, group: Group
) -> Factor:
    with rows.full_precision(x):
        rows_GNP = gather_rows(rows.extract_rows(x, geometry), group)
        num_rows = max(1, rows_GNP.shape[1])
        if num_rows < rows_GNP.shape[2]:
            return factorise_rows(rows_GNP, lam, in_span=not x.requires_grad)
        wide_GNP = rows_GNP.to(accumulation_dtype(x))
        return factorise(wide_GNP.mT @ wide_GNP / num_rows, lam, statistics_dtype(x))


def gather_rows(rows_GNP: Tensor, group: Group) -> Tensor:
    """Collect the rows of all ranks. Waits for the row counts.

    Args:
        rows_GNP: this rank's.
        group: to collect over.

    Returns:
        Theirs, in the order of the ranks; zeros take the place of no rows at all.
    """
    world = dist.get_world_size(group.group)
    groups, num_rows, size = rows_GNP.shape
    count = torch.tensor([num_rows], device=rows_GNP.device)
    counts = [torch.zeros_like(count) for _ in range(world)]
    dist.all_gather(counts, count, group=group.group)
    sizes = [int(c) for c in counts]
    padded = rows_GNP.new_zeros(groups, max(1, *sizes), size)
    padded[:, :num_rows] = rows_GNP
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded, group=group.group)
    if sum(sizes) == 0:
        return parts[0]
    return torch.cat([p[:, :n] for p, n in zip(parts, sizes, strict=True)], dim=1)


_first_passes: weakref.WeakKeyDictionary[nn.Module, list[weakref.ref[Pending]]]
_first_passes = weakref.WeakKeyDictionary()


def _remember(owner: nn.Module, pending: Pending) -> None:
    alive = [ref for ref in _first_passes.get(owner, []) if ref() is not None]
    _first_passes[owner] = [*alive, weakref.ref(pending)]


def _first_pass(owner: nn.Module, x: Tensor) -> Pending | None:
    """The sums of the pass that this one recomputes, if it recomputes one."""
    # Activation checkpointing runs the forward again inside the backward. The
    # non-reentrant kind keeps the first pass's nodes, which hold the sums that count;
    # what the second pass makes is dropped, and a second collective would be one too
    # many. The reentrant kind ran its first pass without gradients: nothing is found.
    if torch._C._current_graph_task_id() == -1:  # pyright: ignore[reportPrivateUsage]
        return None
    for ref in _first_passes.get(owner, []):
        pending = ref()
        if pending is None or pending.used:
            continue
        # Checkpointing has dropped the first pass's input, or hands it in once more.
        first_input = pending.input()
        if first_input is None or first_input is x:
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
    active = DistributedDataParallel._active_ddp_module  # pyright: ignore[reportPrivateUsage]
    if active is not None and active._join_config.enable:  # pyright: ignore[reportPrivateUsage]
        msg = (
            "TrAct with sync=True does not work inside DDP's join(): a rank that has "
            "run out of batches takes no part in the sum of the statistics, and the "
            "others would wait for it forever. Give such ranks empty batches, or use "
            "sync=False"
        )
        raise RuntimeError(msg)
