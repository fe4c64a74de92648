"""Statistics summed over several calls of a layer, for one factor at the step.

Rows are counted when the gradient that they belong to is added to ``weight.grad``, so
that the statistics are those of the gradient. A forward that is never differentiated,
or one that checkpointing runs again, does not count, nor does a gradient taken with
`torch.autograd.grad`; a gradient that is added twice counts twice.

Everything else that is added to ``weight.grad``, such as the gradient of a penalty on
the weight, is called external here and is not preconditioned. To separate both, the
layer's calls pass zeros to the weight in a backward and hand over their gradients here.
So what reaches the weight is external, and a hook adds the layer's own gradients to it.

The rows themselves are kept while there are fewer of them than entries, for the dual
form; from then on the sum of their products.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainact.damping import Damping
from trainact.factor import Factor, factorise, factorise_rows
from trainact.gram.matmul import self_product
from trainact.gram.patches import extract_patches
from trainact.precision import (
    accumulation_dtype,
    full_precision,
    statistics_dtype,
)
from trainact.sharding import apply_to_rows, is_sharded
from trainact.span import Span
from trainact.statistics.call import Call
from trainact.statistics.group import (
    Group,
    gather_counts,
    gather_rows,
    join_sums,
    split_sums,
)
from trainact.statistics.operators import gram
from trainact.torch_internals import (
    backward_task,
    ddp_averages,
    in_ddp_forward,
    in_transform,
    outside_graphs,
    register_first_hook,
    same_view,
)

# What averaging and rescaling may add to a gradient, in eps of its largest entry.
_ROUNDING = 64


@dataclass
class _Backward:
    """What one backward has brought so far, until it is added to ``weight.grad``.

    Attributes:
        version: the weight's, to notice a step.
        own: the layer's gradient, None before it has come.
        zero: what was passed to the weight in its place.
        external: gradients that did not come through the layer's calls.
        rows: (rows or the sum of their products, their number, whether the gradient is
            a combination of them) of each call.
        begins: whether a new accumulation begins with it.
        is_local: whether the gradient stays this rank's own for now (``no_sync``).
    """

    version: int
    own: Tensor | None = None
    zero: Tensor | None = None
    external: list[Tensor] = field(default_factory=list)
    rows: list[tuple[Tensor, int, bool]] = field(default_factory=list)
    begins: bool = False
    is_local: bool = False


class Microbatches:
    """What one layer has seen since its gradient was last zeroed.

    ``parameter`` is the weight that the optimizer holds. Statistics are summed over one
    group of ``ranks`` after the other.
    """

    def __init__(
        self, parameter: nn.Parameter, num_groups: int, ranks: list[Group]
    ) -> None:
        self.parameter = parameter
        self.num_groups = num_groups
        self.ranks = ranks
        self._watched: list[Tensor] = []
        self._handles: list[Any] = []
        # Replicas of `torch.nn.DataParallel` share it, each in a thread of its own.
        self._lock = threading.RLock()
        self._backwards: dict[int, _Backward] = {}
        self._forget()

    @property
    def num_entries(self) -> int:
        """Entries of a row. From the shape: a sharded weight must not be gathered."""
        return math.prod(self.parameter.shape[1:])

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._watched.clear()

    def reset(self) -> None:
        """Forget everything, as the gradient has been zeroed."""
        was_stepped_early = self._is_stepped_early()
        self._forget()
        self._is_zeroed = True
        if was_stepped_early:
            raise RuntimeError(_STEPPED)

    def _forget(self) -> None:
        self._is_open = False  # whether a gradient has been added
        self._is_applied = False
        self._is_zeroed = False
        self._is_local = False
        self._version = -1  # of the weight, when the first gradient was added
        self._rows: list[Tensor] = []
        self._products: Tensor | None = None
        self._num_rows = 0
        self._in_span = True
        self._external: list[Tensor] = []
        # weight.grad when the last of these was in it
        self._grad_with_external: Tensor | None = None
        self._saw_autograd_grad = False
        self._known_grad: tuple[Tensor | None, int] | None = None

    @outside_graphs
    def precondition(self, weight: Tensor, call: Call) -> Tensor:
        """The weight; once its gradient is in ``weight.grad``, the rows count."""
        self._refuse_what_would_be_wrong(weight)
        num_rows = call.geometry.num_rows(call.x.shape)
        take = extract_patches if num_rows < call.geometry.num_entries else gram
        with torch.no_grad(), full_precision(call.x):
            seen = take(call.x.detach(), call.geometry)
        with self._lock:
            self._drop_unaccumulated()
            self._watch(weight if weight.is_leaf else self.parameter)
        receive = partial(
            self._receive,
            num_rows=num_rows,
            span=call.span,
            is_local=self._stays_local(),
        )
        return _HandOver.apply(weight, seen, receive)  # pyright: ignore[reportReturnType]

    @torch.no_grad()
    def apply(self, damping: Damping) -> None:
        """Apply the inverse to the layer's own part of the gradient, once.

        Every rank must make this call, also one that has seen nothing.
        """
        if self._is_applied:
            return
        self._drop_unaccumulated()
        self._refuse_gradients_by_hand()
        self._is_applied = True
        has_external = any(bool(grad.any()) for grad in self._external)
        counts: list[list[int]] = []
        num_rows = self._num_rows
        for group in self.ranks:
            numbers = [num_rows, int(has_external)]
            gathered = gather_counts(numbers, group, self.parameter.device)
            counts.append([number for number, _ in gathered])
            num_rows = sum(counts[-1])
            has_external = any(flag for _, flag in gathered)
        if num_rows == 0 and not self.ranks:
            return
        external = self._present_external() if has_external else None
        factor = self._factor(damping, num_rows, counts)
        grad = self.parameter.grad
        if grad is None:
            return
        if external is not None:
            grad.sub_(external)
        apply_to_rows(grad, factor)
        if external is not None:
            grad.add_(external)

    def finish(self, damping: Damping) -> None:
        """Precondition what is left when the block ends.

        Does not wait for ranks that may have nothing left.
        """
        if self._is_stepped_early():
            raise RuntimeError(_STEPPED)
        if self.parameter.grad is None or self._is_applied:
            return
        if not self._is_local:
            self.apply(damping)
            return
        msg = (
            "a trainact.deferred block was left in the middle of an accumulation whose "
            "gradients are not yet averaged over the ranks: weight.grad keeps this "
            "rank's ordinary gradient. Finish it with a synchronised backward, or call "
            "precondition() on every rank before the block ends"
        )
        warnings.warn(msg, stacklevel=3)

    def _stays_local(self) -> bool:
        """Whether other ranks need not have a gradient when this one has."""
        return bool(self.ranks) and not (is_sharded(self.parameter) or ddp_averages())

    def _watch(self, leaf: Tensor) -> None:
        """Put hooks on the weight that a call uses: FSDP2 has one of its own."""
        if any(leaf is watched for watched in self._watched):
            return
        self._watched.append(leaf)
        self._handles += [
            # First, so that other hooks see the gradient and not the zeros.
            register_first_hook(leaf, self._add_own_gradient),
            leaf.register_post_accumulate_grad_hook(self._after_accumulation),
        ]

    def _receive(
        self, grad: Tensor, seen: Tensor, num_rows: int, span: Span, is_local: bool
    ) -> Tensor | None:
        """Keep a call's gradient, and return what is passed to the weight instead."""
        with self._lock:
            backward = self._backward()
            backward.rows.append((seen, num_rows, not span.may_leave()))
            backward.is_local = is_local
            if backward.own is not None:
                backward.own = backward.own + grad
                return None
            backward.own, backward.zero = grad, torch.zeros_like(grad)
            return backward.zero

    def _add_own_gradient(self, total: Tensor) -> Tensor:
        """Hook of the weight: add the layer's own gradient to the external ones."""
        with self._lock:
            backward = self._backward()
            backward.begins = (
                not self._is_open or self._is_applied or self._is_zeroed_elsewhere()
            )
            grad = self.parameter.grad
            if backward.begins and grad is not None and not self._is_zeroed:
                backward.external.append(grad.detach().clone())
            if backward.own is None:
                backward.external.append(total.detach())
                return total
            if total is backward.zero:
                return backward.own
            backward.external.append(total.detach())
            return backward.own.to(total.device) + total

    def _after_accumulation(self, leaf: Tensor) -> None:
        """Hook of the weight: the gradient is in ``weight.grad``, so its rows count."""
        with self._lock:
            backward = self._backwards.pop(backward_task())
            was_stepped_early = self._is_stepped_early()
            if backward.begins:
                self._forget()
                self._version = backward.version
            self._is_open, self._is_zeroed = True, False
            self._is_local = backward.is_local
            if was_stepped_early or self._is_stepped_early():
                raise RuntimeError(_STEPPED)
            self._external += backward.external
            for seen, num_rows, in_span in backward.rows:
                self._count(seen, num_rows, in_span)
            self._known_grad = self._grad_now()
            if self._external:
                self._grad_with_external = cast("Tensor", leaf.grad).detach().clone()

    def _backward(self) -> _Backward:
        task = backward_task()
        if task not in self._backwards:
            self._refuse_gradients_by_hand()
            if self._known_grad is None:
                self._known_grad = self._grad_now()
            self._backwards[task] = _Backward(self.parameter._version)
        return self._backwards[task]

    def _drop_unaccumulated(self) -> None:
        """Forget gradients that `torch.autograd.grad` took: none was added."""
        if backward_task() != -1:
            return
        self._saw_autograd_grad |= any(b.rows for b in self._backwards.values())
        self._backwards.clear()

    def _count(self, seen: Tensor, num_rows: int, in_span: bool) -> None:
        """Add rows, or the sum of their products if they are many."""
        self._num_rows += num_rows
        self._in_span &= in_span
        if num_rows < self.num_entries:
            self._rows.append(seen.clone())  # the input's memory may be used again
        else:
            self._add_products(seen)
        if self._num_rows >= self.num_entries:
            self._multiply_rows()

    def _grad_now(self) -> tuple[Tensor | None, int]:
        grad = self.parameter.grad
        return grad, -1 if grad is None else grad._version

    def _is_grad_rewritten(self) -> bool:
        """Whether ``weight.grad`` was written to since, as far as it shows."""
        grad, version = self._grad_now()
        known = self._known_grad or (grad, version)
        return grad is not known[0] or version != known[1]

    def _is_stepped_early(self) -> bool:
        is_waiting = self._is_open and not self._is_applied
        return is_waiting and self.parameter._version != self._version

    def _refuse_gradients_by_hand(self) -> None:
        # Over ranks the gradient is rewritten by whatever averages it.
        if self._saw_autograd_grad and not self.ranks and self._is_grad_rewritten():
            msg = (
                "inside trainact.deferred a gradient was taken with "
                "torch.autograd.grad, and weight.grad was written to since: whether "
                "that gradient is in it cannot be told. Accumulate with backward(), or "
                "call precondition() of the block before weight.grad is changed"
            )
            raise RuntimeError(msg)

    def _present_external(self) -> Tensor:
        """The external gradients, averaged over ranks and rescaled as the sum was."""
        grad = self.parameter.grad
        if grad is None or is_sharded(grad):
            raise RuntimeError(_INSEPARABLE)
        zero = torch.zeros_like(grad)
        external = sum(self._external, zero)
        before = zero if self._grad_with_external is None else self._grad_with_external
        for group in self.ranks:
            both = torch.stack([external, before])
            dist.all_reduce(both, group=group.group)
            external, before = both / dist.get_world_size(group.group)
        wide, now = before.double(), grad.double()
        size = wide.square().sum()
        scale = torch.where(size > 0, (wide * now).sum() / size, 1.0)
        error = (now - scale * wide).abs().max()
        if error > _ROUNDING * torch.finfo(grad.dtype).eps * now.abs().max():
            raise RuntimeError(_INSEPARABLE)
        return external * scale.to(external.dtype)

    def _factor(
        self, damping: Damping, num_rows: int, counts: list[list[int]]
    ) -> Factor:
        """Factorise the rows of all ranks."""
        if num_rows >= self.num_entries:
            return self._factor_of_sums(damping)
        dtype = statistics_dtype(self.parameter)
        rows_GNP = torch.cat([self._zeros(0), *self._rows], dim=1).to(dtype)
        for group, count in zip(self.ranks, counts, strict=True):
            rows_GNP = gather_rows(rows_GNP, count, group)
        factor = factorise_rows(rows_GNP, damping)
        return factor.in_span() if self._in_span else factor

    def _factor_of_sums(self, damping: Damping) -> Factor:
        self._multiply_rows()
        products_GPP = self._products
        if products_GPP is None:
            products_GPP = self._zeros(self.num_entries)
        buffer = join_sums(products_GPP, self._num_rows)
        for group in self.ranks:
            dist.all_reduce(buffer, group=group.group)
        gram_GPP = split_sums(buffer, products_GPP.shape)
        return factorise(gram_GPP, damping, statistics_dtype(self.parameter))

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
        """What a rank that has seen nothing adds to the sums or rows of the others."""
        shape = (self.num_groups, num_rows, self.num_entries)
        dtype = accumulation_dtype(self.parameter)
        return torch.zeros(shape, dtype=dtype, device=self.parameter.device)

    def _is_zeroed_elsewhere(self) -> bool:
        """Whether the gradient was zeroed, but not by ``optimizer.zero_grad``."""
        grad = self.parameter.grad
        if type(self.parameter.data) is not Tensor:
            return False  # FSDP2 keeps what it has not yet scattered to itself
        if grad is None or not self._is_grad_rewritten():
            return grad is None
        # DDP rewrites what it averages, so there the values are not read.
        return (self._is_local or not self.ranks) and not bool(grad.any())

    def _refuse_what_would_be_wrong(self, weight: Tensor) -> None:
        if self._is_stepped_early():
            raise RuntimeError(_STEPPED)
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
        is_replica = type(weight.grad_fn).__name__ == "BroadcastBackward"
        is_unsharded = is_sharded(self.parameter) and weight.is_leaf
        if weight is not self.parameter and not is_replica and not is_unsharded:
            msg = (
                "trainact.deferred preconditions the gradient of the weight that the "
                "optimizer holds, but the layer was called with another tensor in its "
                "place (as torch.func.functional_call does): leave the with block"
            )
            raise RuntimeError(msg)


_STEPPED = (
    "the weight of a layer was changed before its accumulated gradient was "
    "preconditioned: something stepped with the ordinary gradient that is not an "
    "optimizer's step() (SAM's first step, say), or is one whose hooks never run. Call "
    "precondition() on the object of the trainact.deferred block before that"
)
_INSEPARABLE = (
    "inside trainact.deferred, weight.grad holds gradients that did not come through "
    "the layer's calls in this accumulation (a penalty on the weight in the loss, or "
    "what it held before), and it was changed since by more than averaging over ranks "
    "and rescaling, or is sharded, so that they cannot be told apart: zero the "
    "gradients first, put a penalty into the optimizer's weight_decay, or call "
    "precondition() before the gradient is changed"
)


class _HandOver(torch.autograd.Function):
    """Identity forward; the backward hands the gradient over."""

    # Without a setup_context, as in `trainact.precondition`: transforms are refused.
    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        seen: Tensor,
        receive: Callable[[Tensor, Tensor], Tensor | None],
    ) -> Tensor:
        ctx.receive = receive
        ctx.save_for_backward(seen)
        return same_view(weight)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (seen,) = ctx.saved_tensors
        return ctx.receive(grad_outputs[0], seen), None, None
