r"""What a layer under an `Estimate` keeps from call to call.

Two forms, as in `trainact.factor`. With a running average, or over several ranks, the
sums of products are kept, P x P whatever the number of rows. Otherwise the sampled rows
are kept where they are fewer than their entries. Either way a gradient need not be a
combination of the rows that the factor was made from; that is assumed only where
nothing is saved.

Calls are counted, and statistics made, when a call's gradient comes back.

What is not finite is left out: products of a refresh that hold such a number are
dropped whole, and rows that hold one count as zeros. Nothing waits for the device.

Legend: G groups, N rows, P entries of a row.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainact.damping import Lam
from trainact.factor import Factor, factorise, factorise_rows
from trainact.geometry import Geometry
from trainact.gram import rows
from trainact.later import precondition_later
from trainact.precision import statistics_dtype
from trainact.span import Span
from trainact.statistics.estimate import Estimate
from trainact.statistics.local import sum_products
from trainact.statistics.ranks import (
    Group,
    join_sums,
    refuse_what_cannot_work,
    split_sums,
)
from trainact.torch_internals import in_transform, outside_graphs

# Replicas of `torch.nn.DataParallel` share an estimator and run in threads.
_LOCK = threading.Lock()


class Estimator:
    """What a layer under an `Estimate` keeps from call to call, beside its state dict.

    A copy or pickle of the layer takes it along. It starts anew where the layer's
    geometry, the precision of its statistics or the device is another than before.

    Args:
        estimate: how to save.
    """

    def __init__(self, estimate: Estimate) -> None:
        self.estimate = estimate
        self.forget()

    def forget(self) -> None:
        """Start anew: the next call makes its own statistics."""
        self._calls = 0
        self._valid_for: Any = None
        self._latest: _Sums | _Rows | None = None

    @outside_graphs  # a graph would replay the factor of its first call
    def precondition(
        self,
        weight: Tensor,
        x: Tensor,
        geometry: Geometry | None,
        lam: Lam,
        ranks: Group | None,
        span: Span,
    ) -> Tensor:
        r"""Pass the weight on; its gradient will be preconditioned.

        Over several ranks each of them must differentiate this call, also one without
        rows.

        Args:
            weight: of the layer.
            x: the layer's input; may be empty.
            geometry: of the layer, or None for a linear one.
            lam: :math:`\lambda`, at once: what was kept is factorised again for it.
            ranks: that share statistics.
            span: of the input's rows.

        Returns:
            The weight.
        """
        _refuse_what_would_be_wrong(x)
        if ranks is None or ranks.is_alone():
            if x.numel() == 0:
                return weight
            ranks = None
        else:
            refuse_what_cannot_work()
        make = partial(self.factor, geometry=geometry, lam=lam, ranks=ranks)
        # Under any other estimate the factor may be of other rows than the call's.
        is_exact = self.estimate == Estimate()
        return precondition_later(weight, x, make, span if is_exact else None)

    def factor(
        self, x: Tensor, geometry: Geometry | None, lam: Lam, ranks: Group | None
    ) -> Factor:
        r"""Count a call, and make new statistics if it is their turn.

        Args:
            x: the layer's input.
            geometry: of the layer, or None for a linear one.
            lam: :math:`\lambda`.
            ranks: that share statistics, more than one; or None.

        Returns:
            The call's factor.
        """
        with _LOCK:
            entries = rows.count_entries(x, geometry)
            valid_for = (geometry, entries, statistics_dtype(x), x.device)
            if self._valid_for != valid_for:
                self.forget()
                self._valid_for = valid_for
            turn, age = divmod(self._calls, self.estimate.every)
            self._calls += 1
            if self._latest is None or age == 0:
                sampled = sample(x, geometry, self.estimate.fraction, turn)
                self._latest = self._refresh(sampled, geometry, ranks)
            return self._latest.factor(lam)

    def _refresh(
        self, x: Tensor, geometry: Geometry | None, ranks: Group | None
    ) -> _Sums | _Rows:
        num_rows, decay = rows.count_rows(x, geometry), self.estimate.decay
        is_few = num_rows < rows.count_entries(x, geometry)
        if is_few and decay == 0 and ranks is None:
            return _Rows(rows.extract_rows(x, geometry))
        products_GPP = sum_products(x, geometry)
        fresh = join_sums(products_GPP, num_rows)
        if ranks is not None:
            dist.all_reduce(fresh, group=ranks.group)
        before = torch.zeros_like(fresh)
        if isinstance(self._latest, _Sums):
            before = self._latest.running
        is_sound = fresh.isfinite().all() & (fresh[-1] > 0)
        running = torch.where(is_sound, decay * before + fresh, before)
        return _Sums(running, products_GPP.shape, statistics_dtype(x))


class _Statistics(ABC):
    """Of one refresh, and the factor of the last λ that was asked for."""

    _made: tuple[Lam, Factor] | None = None

    def factor(self, lam: Lam) -> Factor:
        if self._made is None or self._made[0] != lam:
            self._made = lam, self.factorise(lam)
        return self._made[1]

    @abstractmethod
    def factorise(self, lam: Lam) -> Factor: ...


class _Rows(_Statistics):
    """The rows themselves, fewer than their entries."""

    def __init__(self, rows_GNP: Tensor) -> None:
        is_finite_GN1 = rows_GNP.isfinite().all(-1, keepdim=True)
        # A copy, too: the input's memory may be used again before the rows are.
        self.rows_GNP = torch.where(is_finite_GN1, rows_GNP, 0)

    def factorise(self, lam: Lam) -> Factor:
        return factorise_rows(self.rows_GNP, lam)


class _Sums(_Statistics):
    """Running sums of products and rows, in one tensor as `join_sums` makes it."""

    def __init__(self, running: Tensor, shape: torch.Size, dtype: torch.dtype) -> None:
        self._running = running
        self._shape = shape
        self._dtype = dtype

    @property
    def running(self) -> Tensor:
        """What the next refresh adds to."""
        return self._running

    def factorise(self, lam: Lam) -> Factor:
        gram_GPP = split_sums(self._running, self._shape)
        # Before the first sound batch the input counts as white.
        eye = torch.eye(self._shape[-1], dtype=gram_GPP.dtype, device=gram_GPP.device)
        gram_GPP = torch.where(self._running[-1] > 0, gram_GPP, eye)
        return factorise(gram_GPP, lam, self._dtype)


def sample(x: Tensor, geometry: Geometry | None, fraction: float, turn: int) -> Tensor:
    """Take evenly spaced images, or entries of a linear input's leading dimension.

    Args:
        x: the layer's input.
        geometry: of the layer, or None for a linear one.
        fraction: how many of them, in (0, 1]; at least one is taken.
        turn: number of the refresh: each begins where the one before it did not.

    Returns:
        ``x`` itself if nothing is left out.
    """
    unbatched = 1 if geometry is None else geometry.num_spatial + 1
    if fraction == 1 or x.ndim == unbatched:
        return x
    total = x.shape[0]
    number = max(1, round(fraction * total))
    if number >= total:
        return x
    # All images come up equally often: i -> (i total + first) / number, rounded down,
    # and first runs over the multiples of number.
    first = turn * number % total
    index = (torch.arange(number, device=x.device) * total + first) // number
    return x.index_select(0, index)


def _refuse_what_would_be_wrong(x: Tensor) -> None:
    remedy = "set estimate=None for exact statistics (layer.estimate = None)"
    if in_transform():
        msg = (
            "TrAct with estimate= keeps statistics from call to call, which a "
            f"torch.func transform cannot do: {remedy}"
        )
        raise RuntimeError(msg)
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        msg = (
            "TrAct with estimate= inside a CUDA graph would use the factor of the "
            f"captured call forever: {remedy}"
        )
        raise RuntimeError(msg)
