"""Statistics summed over several calls of a layer, for one factor at the step.

What a call adds is added when its gradient comes back, not when it is made: a forward
that is never differentiated, or one that checkpointing runs again, does not count, and
a gradient that arrives twice counts twice, as it does in ``weight.grad``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainact import rows
from trainact.factor import Factor, factorise, factorise_rows
from trainact.geometry import Geometry
from trainact.patches import accumulation_dtype, statistics_dtype
from trainact.precondition import in_transform
from trainact.sync import Group, gather_rows, join_sums, split_sums

# Up to this many entries their products are summed; above it, where a matrix of them
# would be larger than any batch, the rows themselves are kept.
MAX_SUMMED_ENTRIES = 4096


class Accumulator:
    """What one layer has seen since its gradient was last zeroed.

    Args:
        parameter: the layer's weight, as the optimizer holds it.
        groups: ranks whose statistics belong together; summed over one after the other.
    """

    def __init__(self, parameter: nn.Parameter, groups: list[Group]) -> None:
        self.parameter = parameter
        self.groups = groups
        self.is_applied = False
        self._seen: list[Tensor] = []
        self._num_rows = 0

    @property
    def keeps_rows(self) -> bool:
        """Whether rows are kept, rather than the sum of their products."""
        return self.parameter[0].numel() > MAX_SUMMED_ENTRIES

    def reset(self) -> None:
        """Forget everything, as the gradient has been."""
        self.is_applied = False
        self._seen = []
        self._num_rows = 0

    @torch.compiler.disable
    def observe(self, weight: Tensor, x: Tensor, geometry: Geometry | None) -> Tensor:
        """Pass the weight on; when its gradient comes back, count the input's rows.

        Args:
            weight: of the layer.
            x: the layer's input; may be empty.
            geometry: of the layer, or None for a linear one.

        Returns:
            The weight.

        Raises:
            RuntimeError: if the gradient of the last step has not been zeroed, or where
                the sums would be wrong.
        """
        self._start()
        take = rows.extract_rows if self.keeps_rows else rows.sum_products
        with torch.no_grad(), rows.full_precision(x):
            seen = take(x.detach(), geometry)
        num_rows = rows.count_rows(x, geometry)
        return _Observe.apply(weight, seen, num_rows, self)  # pyright: ignore[reportReturnType]

    def add(self, seen: Tensor, num_rows: int) -> None:
        """Count rows whose gradient has come back.

        Args:
            seen: the rows, or the sum of their products.
            num_rows: how many.
        """
        if self._seen and not self.keeps_rows:
            seen = self._seen.pop() + seen
        self._seen.append(seen)
        self._num_rows += num_rows

    @torch.no_grad()
    def factor(self, lam: float) -> Factor | None:
        r"""Factorise what has been seen, on all ranks that belong together.

        Args:
            lam: :math:`\lambda`.

        Returns:
            The factor, or None if nothing was seen.
        """
        if not self._seen:
            return None
        seen = torch.cat(self._seen, dim=1) if self.keeps_rows else self._seen[0]
        if self.keeps_rows:
            return self._factor_of_rows(seen, lam)
        buffer = join_sums(seen, self._num_rows)
        for group in self.groups:
            dist.all_reduce(buffer, group=group.group)
        dtype = statistics_dtype(self.parameter)
        return factorise(split_sums(buffer, seen.shape), lam, dtype)

    def _factor_of_rows(self, rows_GNP: Tensor, lam: float) -> Factor:
        for group in self.groups:
            rows_GNP = gather_rows(rows_GNP, group)
        num_rows = rows_GNP.shape[1]
        if num_rows < rows_GNP.shape[2]:
            return factorise_rows(rows_GNP, lam, in_span=False)
        wide_GNP = rows_GNP.to(accumulation_dtype(rows_GNP))
        gram_GPP = wide_GNP.mT @ wide_GNP / num_rows
        return factorise(gram_GPP, lam, statistics_dtype(rows_GNP))

    def _start(self) -> None:
        """Notice a new accumulation, or refuse to mix it with the last one."""
        self._refuse_what_would_be_wrong()
        is_plain = type(self.parameter.data) is Tensor
        if is_plain and self.parameter.grad is None:
            if self._seen:  # the gradient was dropped, so its rows do not count
                self.reset()
        elif self.is_applied:
            msg = (
                "the gradient of the last step is still there and has been "
                "preconditioned already: call optimizer.zero_grad() after each step "
                "inside trainact.deferred"
            )
            raise RuntimeError(msg)

    def _refuse_what_would_be_wrong(self) -> None:
        if in_transform():
            msg = (
                "trainact.deferred preconditions weight.grad at the optimizer's step; "
                "a torch.func transform has neither: leave the with block"
            )
            raise RuntimeError(msg)
        if DistributedDataParallel._active_ddp_module is not None and not self.groups:  # pyright: ignore[reportPrivateUsage]
            msg = (
                "trainact.deferred was given a model without its DDP wrapper, so that "
                "each rank would step with statistics of its own and the replicas "
                "would drift apart: pass the DistributedDataParallel model"
            )
            raise RuntimeError(msg)


class _Observe(torch.autograd.Function):
    """Identity in both directions; the backward counts the rows."""

    @staticmethod
    def forward(
        weight: Tensor,
        seen: Tensor,  # noqa: ARG004
        num_rows: int,  # noqa: ARG004
        accumulator: Accumulator,  # noqa: ARG004
    ) -> Tensor:
        return weight.view_as(weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        _, seen, ctx.num_rows, ctx.accumulator = inputs
        ctx.save_for_backward(seen)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (seen,) = ctx.saved_tensors
        ctx.accumulator.add(seen, ctx.num_rows)
        return grad_outputs[0], None, None, None
