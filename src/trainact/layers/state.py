"""What TrAct keeps of one layer: its settings, and how its statistics are made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trainact.damping import check_damping, check_lam, check_relative
from trainact.geometry import Geometry
from trainact.sharding import is_sharded, local_input
from trainact.span import Span
from trainact.statistics.call import Call, Statistics
from trainact.statistics.estimated import Estimate, Estimated, check_estimate
from trainact.statistics.group import Group, make_group
from trainact.statistics.local import Local
from trainact.statistics.microbatches import Microbatches
from trainact.statistics.ranks import OverRanks
from trainact.statistics.side_stream import SideStream


class State:
    """The attribute ``tract`` of a layer under TrAct.

    Attributes:
        damping: λ.
        group: ranks that share statistics; None if each has its own.
        statistics: how the factor of each call is made.
        is_seen: whether the layer has been called in training mode.
        is_warned: whether the user has been warned about the layer.
    """

    def __init__(
        self,
        lam: float = 0.1,
        relative: bool = False,
        sync: Any = False,
        estimate: Estimate | None = None,
    ) -> None:
        self.damping = check_damping(lam, relative)
        self.group: Group | None = make_group(sync)
        self.statistics: Statistics = Local()
        self.is_seen = self.is_warned = False
        self._overlap = False
        self._choose(check_estimate(estimate))

    @property
    def lam(self) -> float:
        r"""Damping :math:`\lambda`; may be changed, from the next call on."""
        return self.damping.lam

    @lam.setter
    def lam(self, value: float) -> None:
        self.damping = replace(self.damping, lam=check_lam(value))

    @property
    def relative(self) -> bool:
        """Whether ``lam`` is in units of tr A / n; may be changed, as ``lam`` may."""
        return self.damping.relative

    @relative.setter
    def relative(self, value: bool) -> None:
        self.damping = replace(self.damping, relative=check_relative(value))

    @property
    def sync(self) -> Any:
        """Ranks that share statistics: False, True (all of them) or a process group."""
        return False if self.group is None else (self.group.group or True)

    @sync.setter
    def sync(self, value: Any) -> None:
        self.group = make_group(value)
        self._choose(self.estimate)

    @property
    def estimate(self) -> Estimate | None:
        """How statistics are made cheaper; None for exact ones. Setting starts anew."""
        statistics = self.statistics
        return statistics.estimate if isinstance(statistics, Estimated) else None

    @estimate.setter
    def estimate(self, value: Estimate | None) -> None:
        if self.is_deferred:
            msg = "leave trainact.deferred before you change a layer's estimate"
            raise RuntimeError(msg)
        self._choose(check_estimate(value))

    @property
    def overlap(self) -> bool:
        """Whether statistics are made on a CUDA or ROCm stream of their own.

        That is beside the rest of the forward pass. Without effect elsewhere, and for
        sync, estimates and deferred statistics; see
        `trainact.statistics.side_stream`.
        """
        return self._overlap

    @overlap.setter
    def overlap(self, value: bool) -> None:
        self._overlap = value
        self._choose(self.estimate)

    @property
    def is_deferred(self) -> bool:
        """Whether the layer is in a block of `trainact.deferred`."""
        return isinstance(self.statistics, Microbatches)

    def defer(self, statistics: Microbatches) -> None:
        """Collect the statistics of all micro-batches, until `undefer`."""
        self.statistics = statistics

    def undefer(self) -> None:
        """Make statistics as the settings say."""
        self.statistics = self._exact()

    def precondition(self, weight: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
        """Pass a weight on; its gradient will be preconditioned for this input."""
        span, group, statistics = Span(weight, x), None, self.statistics
        if x.is_nested:
            x = nested_rows(x)
        if not geometry.fits(x.shape):
            return weight  # the layer itself is about to raise an error
        if is_sharded(x):
            x, ranks = local_input(x, geometry)
            group = ranks and Group(ranks)
            if group and self.group is None and isinstance(statistics, Local):
                statistics = OverRanks(group)
        call = Call(x, geometry, self.damping, span, group)
        return statistics.precondition(weight, call)

    def _choose(self, estimate: Estimate | None) -> None:
        """Make statistics as the settings say; what was estimated is forgotten."""
        if self.is_deferred:
            return
        self.statistics = Estimated(estimate, self.group) if estimate else self._exact()

    def _exact(self) -> Statistics:
        if self.group is not None:
            return OverRanks(self.group)
        return SideStream() if self._overlap else Local()


def nested_rows(x: Tensor) -> Tensor:
    """The rows of all sequences of a nested tensor, ``[N, ..., P]``, without gaps."""
    nested: Any = x
    if x.layout is torch.jagged and nested.lengths() is None:
        return nested.values()
    return torch.cat(nested.unbind())


def saved(attributes: dict[str, Any]) -> dict[str, Any]:
    """A layer's attributes, for a copy or a pickle: plain values as far as possible."""
    state: State = attributes["tract"]
    values: dict[str, Any] = {
        "lam": state.lam,
        "relative": state.relative,
        "overlap": state.overlap,
        "is_seen": state.is_seen,
        "is_warned": state.is_warned,
    }
    if state.group is not None:
        values["group"] = state.group
    if isinstance(state.statistics, Estimated):
        values["estimated"] = state.statistics
    return attributes | {"tract": values}


def restored(attributes: dict[str, Any]) -> dict[str, Any]:
    """What `saved` was given, also from what earlier versions have saved."""
    attributes = dict(attributes)
    if "tract" not in attributes:
        former = {
            today: attributes.pop(name)
            for name, today in _FORMER.items()
            if name in attributes
        }
        attributes["tract"] = former | former.pop("tract", {})
    values = attributes["tract"]
    state = State(values.get("lam", 0.1), values.get("relative", False))
    state.group = values.get("group")
    state.overlap = values.get("overlap", False)
    state.is_seen = values.get("is_seen", False)
    state.is_warned = values.get("is_warned", False)
    estimated = values.get("estimated")
    if estimated is not None:
        estimated.group = state.group
        state.statistics = estimated
    return attributes | {"tract": state}


# Attributes that layers had in earlier versions.
_FORMER = {
    "_lam": "lam",
    "_relative": "relative",
    "overlap": "overlap",
    "ranks": "group",
    "estimator": "estimated",
    "accumulator": "accumulator",
    "tract_state": "tract",
}


class Setting:
    """An attribute of ``layer.tract`` as an attribute of the layer.

    An attribute of that name that the layer's own class sets stays what it is; the
    setting is then reached as ``layer.tract.lam``, say.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name
        self.__doc__ = getattr(State, name).__doc__

    def __get__(self, layer: Any, owner: type) -> Any:
        """The layer's own attribute of that name, or the setting."""
        if layer is None:
            return self
        own = self._own(layer)
        return getattr(layer.tract, self._name) if own is None else own[self._name]

    def __set__(self, layer: Any, value: Any) -> None:
        own = self._own(layer)
        if own is None:
            setattr(layer.tract, self._name, value)
        else:
            own[self._name] = value

    def _own(self, layer: Any) -> dict[str, Any] | None:
        attributes = vars(layer)
        for kind in ("_parameters", "_buffers", "_modules"):
            if self._name in attributes.get(kind, ()):
                return attributes[kind]
        return attributes if self._name in attributes else None
