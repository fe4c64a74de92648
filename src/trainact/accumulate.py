"""Statistics summed over several calls of a layer, for one factor at the step.

What a call adds is added when its gradient comes back, not when it is made: a forward
that is never differentiated, or one that checkpointing runs again, does not count, and
a gradient that arrives twice counts twice, as it does in ``weight.grad``.

The rows themselves are kept while there are fewer of them than entries, for the dual
form; from then on the sum of their products.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainact import rows
from trainact.damping import Lam
from trainact.factor import Factor, factorise, factorise_rows
from trainact.geometry import Geometry
from trainact.precision import (
    accumulation_dtype,
    full_precision,
    statistics_dtype,
)
from trainact.products import self_product
from trainact.statistics import sum_products
from trainact.sync import (
    Group,
    gather_counts,
    gather_rows,
    join_sums,
    split_sums,
)
from trainact.torch_internals import (
    backward_task,
    in_ddp_forward,
    in_transform,
    outside_graphs,
)


class Accumulator:
    """What one layer has seen since its gradient was last zeroed.

    Args:
        parameter: the layer's weight, as the optimizer holds it.
        num_groups: of the convolution, otherwise 1.
        ranks: whose statistics belong together; summed over one group after the other.
    """

    def __init__(
        self, parameter: nn.Parameter, num_groups: int, ranks: list[Group]
    ) -> None:
        self.parameter = parameter
        self.num_groups = num_groups
        self.ranks = ranks
        self.is_applied = False
        self._rows: list[Tensor] = []
        self._products: Tensor | None = None
        self._num_rows = 0
        self._in_span = True
        self._graph_task = -1

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        # A copy of the layer is in no with block: it gets None.
        return type(None), ()

    @property
    def num_entries(self) -> int:
        """Entries of a row. From the shape: a sharded weight must not be gathered."""
        return math.prod(self.parameter.shape[1:])

    def reset(self) -> None:
        """Forget everything, as the gradient has been."""
        self.is_applied = False
        self._rows = []
        self._products = None
        self._num_rows = 0
        self._in_span = True

    @outside_graphs
    def observe(self, weight: Tensor, x: Tensor, geometry: Geometry | None) -> Tensor:
        """Pass the weight on; when its gradient comes back, count the input's rows.

        Args:
            weight: of the layer.
            x: the layer's input; may be empty.
            geometry: of the layer, or None for a linear one.

        Returns:
            The weight.

        Raises:
            RuntimeError: where the sums would be wrong.
        """
        self._refuse_what_would_be_wrong()
        num_rows = rows.count_rows(x, geometry)
        is_few = num_rows < self.num_entries
        take = rows.extract_rows if is_few else sum_products
        with torch.no_grad(), full_precision(x):
            seen = take(x.detach(), geometry)
        # Only a second differentiation through the input gives the weight gradient
        # parts that are not combinations of the rows.
        add = partial(self.add, num_rows=num_rows, in_span=not x.requires_grad)
        return _Observe.apply(weight, seen, add)  # pyright: ignore[reportReturnType]

    def add(self, seen: Tensor, num_rows: int, in_span: bool) -> None:
        """Count rows whose gradient has come back.

        Args:
            seen: the rows, or the sum of their products if they are many.
            num_rows: how many.
            in_span: whether the gradient is a combination of them.

        Raises:
            RuntimeError: if the gradient of the last step has not been zeroed.
        """
        task = backward_task()
        if task != self._graph_task:
            self._start()
        self._graph_task = task
        self._num_rows += num_rows
        self._in_span &= in_span
        if num_rows < self.num_entries:
            self._rows.append(seen.clone())  # the input's memory may be used again
        else:
            self._add_products(seen)
        if self._num_rows >= self.num_entries:
            self._multiply_rows()

    @torch.no_grad()
    def factor(self, lam: Lam) -> Factor | None:
        r"""Factorise what has been seen, on all ranks that belong together.

        Every rank must make this call, also one that has seen nothing.

        Args:
            lam: :math:`\lambda`.

        Returns:
            The factor, or None if nothing was seen.
        """
        if self._num_rows == 0 and not self.ranks:
            return None
        total, counts = self._num_rows, []
        for group in self.ranks:
            counts.append(gather_counts(total, group, self.parameter.device))
            total = sum(counts[-1])
        if total >= self.num_entries:
            return self._factor_of_sums(lam)
        dtype = statistics_dtype(self.parameter)
        rows_GNP = torch.cat([self._zeros(0), *self._rows], dim=1).to(dtype)
        for group, count in zip(self.ranks, counts, strict=True):
            rows_GNP = gather_rows(rows_GNP, count, group)
        return factorise_rows(rows_GNP, lam, in_span=self._in_span)

    def _factor_of_sums(self, lam: Lam) -> Factor:
        self._multiply_rows()
        products_GPP = self._products
        if products_GPP is None:
            products_GPP = self._zeros(self.num_entries)
        buffer = join_sums(products_GPP, self._num_rows)
        for group in self.ranks:
            dist.all_reduce(buffer, group=group.group)
        gram_GPP = split_sums(buffer, products_GPP.shape)
        return factorise(gram_GPP, lam, statistics_dtype(self.parameter))

    def _multiply_rows(self) -> None:
        """From rows to products: there will not be fewer rows again."""
        if self._rows:
            rows_GNP = torch.cat(self._rows, dim=1)
            wide_GNP = rows_GNP.to(accumulation_dtype(rows_GNP))
            self._rows = []
            self._add_products(self_product(wide_GNP.mT))

    def _add_products(self, products_GPP: Tensor) -> None:
        if self._products is not None:
            products_GPP = self._products + products_GPP
        self._products = products_GPP

    def _zeros(self, num_rows: int) -> Tensor:
        """What a rank that has seen nothing adds to the others' sums or rows."""
        shape = (self.num_groups, num_rows, self.num_entries)
        dtype = accumulation_dtype(self.parameter)
        return torch.zeros(shape, dtype=dtype, device=self.parameter.device)

    def _grad_is_missing(self) -> bool:
        # FSDP2 keeps a gradient that it has not yet scattered to itself, so a missing
        # one says nothing there.
        is_plain = type(self.parameter.data) is Tensor
        return is_plain and self.parameter.grad is None

    def _start(self) -> None:
        """Begin a backward; refuse to mix a new accumulation with the last one."""
        # The sums follow weight.grad: where that starts anew, so do they. Within one
        # backward it may still be missing while other calls' rows have been counted.
        if self._grad_is_missing():
            self.reset()
        if not self.is_applied:
            return
        if self.parameter.grad is not None:
            msg = (
                "the gradient of the last step is still there and has been "
                "preconditioned already: call optimizer.zero_grad() before each "
                "backward that starts a new batch inside trainact.deferred"
            )
            raise RuntimeError(msg)
        self.reset()

    def _refuse_what_would_be_wrong(self) -> None:
        if in_transform():
            msg = (
                "trainact.deferred preconditions weight.grad at the optimizer's step; "
                "a torch.func transform has neither: leave the with block"
            )
            raise RuntimeError(msg)
        if in_ddp_forward() and not self.ranks:
            msg = (
                "trainact.deferred was given a model without its DDP wrapper, so that "
                "each rank would step with statistics of its own and the replicas "
                "would drift apart: pass the DistributedDataParallel model"
            )
            raise RuntimeError(msg)


class _Observe(torch.autograd.Function):
    """Identity in both directions; the backward counts the rows."""

    # Without a setup_context, as in `trainact.precondition`: transforms are refused.
    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, seen: Tensor, add: Callable[[Tensor], None]
    ) -> Tensor:
        ctx.add = add
        ctx.save_for_backward(seen)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (seen,) = ctx.saved_tensors
        ctx.add(seen)
        return grad_outputs[0], None, None
