r"""Statistics cheaper than exact ones: older, averaged, of fewer images.

By default each call of a layer makes A and its factor from the whole of its input. An
`Estimate` lets a layer do less, at the price of an update that is not exact: see
``docs/cheaper-statistics.md`` for how far off it is and what it saves.

Two forms, as in `trainact.factor`. With a running average, or over several ranks, the
sums of products are kept, P x P whatever the number of rows. Otherwise the sampled rows
are kept where they are fewer than their entries. Either way a gradient need not be a
combination of the rows that the factor was made from; that is assumed only where
nothing is saved.

Calls are counted, and statistics made, when a call's gradient comes back.

Numbers that are not finite are left out: a refresh whose products hold one is dropped,
and rows that hold one count as zeros. Nothing waits for the device.

Legend: G groups, N rows, P entries of a row.
"""

from __future__ import annotations

import numbers
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainact.damping import Damping
from trainact.factor import Factor, factorise, factorise_rows
from trainact.geometry import Geometry
from trainact.gram.patches import extract_patches
from trainact.precision import statistics_dtype
from trainact.precondition import precondition_later
from trainact.statistics.call import Call
from trainact.statistics.group import (
    Group,
    join_sums,
    refuse_what_cannot_work,
    split_sums,
)
from trainact.statistics.operators import gram
from trainact.torch_internals import in_transform, outside_graphs

# Replicas of `torch.nn.DataParallel` share the statistics and run in threads.
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Estimate:
    r"""How a layer's statistics may be cheaper than exact ones; by default not at all.

    With refreshes s at every k-th call, :math:`A_s` from the :math:`b_s` rows sampled
    there, the layer uses

    .. math::
        A_t = \sum_{s \le t} d^{t - s} b_s A_s \Big/ \sum_{s \le t} d^{t - s} b_s ,

    an average over rows without a bias towards zero at the beginning.

    Attributes:
        every: k, calls from one refresh of A and of its factor to the next; in between
            the factor is used again. K-FAC implementations have two such numbers
            (kfac-pytorch: ``factor_update_steps`` and ``inv_update_steps``), SOAP and
            Shampoo call theirs ``precondition_frequency``. Calls count in the order in
            which their gradients come back, also several of one step.
        decay: d, weight that a refresh keeps at the next one (K-FAC: ``factor_decay``);
            0 averages nothing.
        fraction: share of the images (of the leading dimension of a linear layer's
            input) that a refresh is made from, at least one: evenly spaced, beginning
            with another one each time. No random numbers are drawn.

    Not for layers with about as many rows as entries, or fewer: what the factor has not
    seen of a gradient is multiplied by up to 1 / λ, and the update is many times too
    large (measured in ``docs/cheaper-statistics.md``).

    Cost: with ``decay`` (or over several ranks) a P x P system per refresh also where
    there are fewer rows than entries, which is dearer than their exact statistics.

    Examples:
        >>> import torch, trainact
        >>> estimate = trainact.Estimate(every=4, fraction=0.25)
        >>> trainact.TrAct(torch.nn.Linear(3, 2), estimate=estimate).estimate
        Estimate(every=4, decay=0.0, fraction=0.25)
    """

    every: int = 1
    decay: float = 0.0
    fraction: float = 1.0

    def __post_init__(self) -> None:
        if not _is_number(self.every, numbers.Integral) or self.every < 1:
            msg = (
                f"every={self.every!r} is not a whole number of calls from 1 on: 1 "
                "makes the statistics anew at every call, 4 at every fourth"
            )
            raise ValueError(msg)
        if not _is_number(self.decay, numbers.Real) or not 0 <= self.decay < 1:
            msg = (
                f"decay={self.decay!r} is not in [0, 1): 0 averages nothing, 0.9 over "
                "about ten refreshes"
            )
            raise ValueError(msg)
        if not _is_number(self.fraction, numbers.Real) or not 0 < self.fraction <= 1:
            msg = (
                f"fraction={self.fraction!r} is not in (0, 1]: 1 takes every image, "
                "0.25 every fourth"
            )
            raise ValueError(msg)


def check_estimate(estimate: Any) -> Estimate | None:
    """Check the ``estimate`` argument; None for exact statistics, however asked for."""
    if estimate is None or estimate == Estimate():
        return None
    if isinstance(estimate, Estimate):
        return estimate
    msg = (
        f"estimate={estimate!r} is not a trainact.Estimate: write "
        "estimate=trainact.Estimate(every=4), or None for exact statistics"
    )
    raise TypeError(msg)


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


class Estimated:
    """What a layer under an `Estimate` keeps from call to call, beside its state dict.

    A copy or pickle of the layer takes it along. It starts anew where the layer's
    geometry, the precision of its statistics or the device is another than before. With
    a group, each of its ranks must differentiate every call, also one without rows.
    """

    def __init__(self, estimate: Estimate, group: Group | None) -> None:
        self.estimate = estimate
        self.group = group
        self.forget()

    def forget(self) -> None:
        """Start anew: the next call makes its own statistics."""
        self._calls = 0
        self._valid_for: Any = None
        self._latest: _Sums | _Rows | None = None

    @outside_graphs  # a graph would replay the factor of its first call
    def precondition(self, weight: Tensor, call: Call) -> Tensor:
        """The weight; see `trainact.statistics.call.Statistics`."""
        x, geometry, damping, span, _ = call
        _refuse_what_would_be_wrong(x)
        group = self.group or call.group
        if group is None or group.is_alone():
            if x.numel() == 0:
                return weight
            group = None
        else:
            refuse_what_cannot_work()
        make = partial(self.factor, geometry=geometry, damping=damping, group=group)
        # Under any other estimate the factor may be of other rows than the call's.
        is_exact = self.estimate == Estimate()
        return precondition_later(weight, x, make, span if is_exact else None)

    def factor(
        self, x: Tensor, geometry: Geometry, damping: Damping, group: Group | None
    ) -> Factor:
        """Count a call, make new statistics if it is their turn; the call's factor."""
        with _LOCK:
            valid_for = (geometry, statistics_dtype(x), x.device)
            if self._valid_for != valid_for:
                self.forget()
                self._valid_for = valid_for
            turn, age = divmod(self._calls, self.estimate.every)
            self._calls += 1
            if self._latest is None or age == 0:
                sampled = sample(x, geometry, self.estimate.fraction, turn)
                self._latest = self._refresh(sampled, geometry, group)
            return self._latest.factor(damping)

    def _refresh(
        self, x: Tensor, geometry: Geometry, group: Group | None
    ) -> _Sums | _Rows:
        num_rows, decay = geometry.num_rows(x.shape), self.estimate.decay
        if num_rows < geometry.num_entries and decay == 0 and group is None:
            return _Rows(extract_patches(x, geometry))
        products_GPP = gram(x, geometry)
        fresh = join_sums(products_GPP, num_rows)
        if group is not None:
            dist.all_reduce(fresh, group=group.group)
        before = torch.zeros_like(fresh)
        if isinstance(self._latest, _Sums):
            before = self._latest.running
        is_sound = fresh.isfinite().all() & (fresh[-1] > 0)
        running = torch.where(is_sound, decay * before + fresh, before)
        return _Sums(running, products_GPP.shape, statistics_dtype(x))


class _Statistics(ABC):
    """Statistics of one refresh, and the factor of the last λ that was asked for."""

    _made: tuple[Damping, Factor] | None = None

    def factor(self, damping: Damping) -> Factor:
        if self._made is None or self._made[0] != damping:
            self._made = damping, self.factorise(damping)
        return self._made[1]

    @abstractmethod
    def factorise(self, damping: Damping) -> Factor: ...


class _Rows(_Statistics):
    """The rows themselves, fewer than their entries."""

    def __init__(self, rows_GNP: Tensor) -> None:
        is_finite_GN1 = rows_GNP.isfinite().all(-1, keepdim=True)
        # A copy, too: the input's memory may be used again before the rows are.
        self.rows_GNP = torch.where(is_finite_GN1, rows_GNP, 0)

    def factorise(self, damping: Damping) -> Factor:
        return factorise_rows(self.rows_GNP, damping)


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

    def factorise(self, damping: Damping) -> Factor:
        gram_GPP = split_sums(self._running, self._shape)
        # Before the first sound batch the input counts as white.
        eye = torch.eye(self._shape[-1], dtype=gram_GPP.dtype, device=gram_GPP.device)
        gram_GPP = torch.where(self._running[-1] > 0, gram_GPP, eye)
        return factorise(gram_GPP, damping, self._dtype)


def sample(x: Tensor, geometry: Geometry, fraction: float, turn: int) -> Tensor:
    """Take evenly spaced images, or entries of a linear input's leading dimension.

    At least one is taken. Each refresh (``turn``) begins with another image.
    """
    unbatched = geometry.num_spatial + 1
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
