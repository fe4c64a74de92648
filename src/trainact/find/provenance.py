"""From what was each tensor of a forward pass computed?

A tensor is *raw* if it was computed from the input and constants alone (buffers are
constants), *from parameters* if it was computed from those alone, and *mixed* once both
have been combined. The operators that combine raw tensors with parameters are what is
sought; mixed tensors, a skip connection of the raw input included, do not count.

On request, whatever depends on the input or on parameters is computed on the meta
device, so nothing large is computed and a model on any device, also on meta, can be
traced. Constants stay real, since code reads their values.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from trainact.torch_internals import StorageWeakRef, storage_of, written_arguments

META = torch.device("meta")

# Operators that take from a tensor its shape, dtype and device only.
SHAPE_ONLY = {
    *(f"{stem}_like" for stem in ("empty", "zeros", "ones", "full")),
    *(f"{stem}_like" for stem in ("rand", "randn", "randint")),
    *(f"new_{stem}" for stem in ("empty", "empty_strided", "zeros", "ones", "full")),
}
# Operators whose result depends on values: a number for Python, or a shape.
NEEDS_VALUES = {
    *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive"),
}
# Operators that multiply their operands, or read one at places that the other gives.
PRODUCTS = {
    *("mul", "div", "mm", "bmm", "addmm", "baddbmm", "convolution"),
    *("grid_sampler_2d", "grid_sampler_3d"),
}
# Operators that put their operands side by side, as skip connections do.
JOINS = {"cat", "stack"}


class ValuesNeededError(Exception):
    """Shapes do not suffice to run the model."""


@dataclass(frozen=True)
class FirstUse:
    """An operator that combines the raw input with parameters.

    Attributes:
        operator: ATen's name of it, ``"convolution"`` say.
        parameters: their qualified names.
        callers: qualified names of the modules whose forward was running.
        is_gated: whether it was not the input itself but its product with features.
    """

    operator: str
    parameters: tuple[str, ...]
    callers: tuple[str, ...]
    is_gated: bool = False


@dataclass(frozen=True)
class Origin:
    """From what a tensor was computed; gated is the input times features."""

    raw: bool
    parameters: tuple[str, ...] = ()
    is_gated: bool = False

    def is_mixed(self) -> bool:
        """Whether the input and parameters have been combined."""
        return self.raw and bool(self.parameters)

    def __or__(self, other: Origin) -> Origin:
        names = dict.fromkeys((*self.parameters, *other.parameters))
        return Origin(self.raw or other.raw, tuple(names))


RAW = Origin(raw=True)


class Tracker(TorchDispatchMode):
    """Notes from what every tensor was computed, and which parameters were used.

    Origins belong to storages, so that views and writes in place share them. A weak
    reference to the storage keeps its address from being used again.
    """

    def __init__(
        self,
        model: nn.Module,
        running: list[str],
        *,
        shapes_only: bool,
        constants_stay_real: bool,
    ) -> None:
        super().__init__()
        self.first_uses: list[FirstUse] = []
        self.used: set[str] = set()
        self._running = running
        self._shapes_only = shapes_only
        devices = (p.device for p in model.parameters() if not p.is_meta)
        self._home = next(devices, torch.device("cpu")) if constants_stay_real else META
        self._origins: dict[int, tuple[StorageWeakRef, Origin]] = {}
        # Meta storages that stand for real ones, which an operator was to write to.
        self._stands_for: dict[int, tuple[StorageWeakRef, StorageWeakRef]] = {}
        self._parameters = {id(p): name for name, p in model.named_parameters()}
        for name, parameter in model.named_parameters():
            self.mark(parameter, Origin(raw=False, parameters=(name,)))

    def mark(self, tensor: Tensor, origin: Origin) -> None:
        """Add to a tensor's origin."""
        storage = self._storage(tensor)
        known = self._origins.get(storage.cdata)
        if known is not None:
            origin = replace(known[1] | origin, is_gated=origin.is_gated)
        self._origins[storage.cdata] = (storage, origin)

    def _storage(self, tensor: Tensor) -> StorageWeakRef:
        storage = storage_of(tensor)
        twin = self._stands_for.get(storage.cdata)
        return storage if twin is None else twin[1]

    def _origin(self, tensor: Tensor) -> Origin | None:
        name = self._parameters.get(id(tensor))
        if name is not None:
            self.used.add(name)
            return Origin(raw=False, parameters=(name,))
        known = self._origins.get(self._storage(tensor).cdata)
        return None if known is None else known[1]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        keywords = dict(kwargs or {})
        name = func.overloadpacket.__name__.rstrip("_")  # in place or not
        tensors = _tensors((args, keywords))
        origins = [self._origin(t) for t in tensors]
        origin = self._join(name, [o for o in origins if o is not None])
        if self._shapes_only:
            result = self._on_shapes(func, args, keywords, tensors, origin)
        else:
            result = func(*args, **keywords)
        if origin is not None and name not in SHAPE_ONLY:
            for tensor in _tensors((result, *written_arguments(func, args, keywords))):
                self.mark(tensor, origin)
        return result

    def _join(self, name: str, origins: list[Origin]) -> Origin | None:
        """The origin of what an operator computes; notes a first use."""
        if not origins:
            return None
        joined = functools.reduce(operator.or_, origins)
        if not joined.is_mixed() or name in SHAPE_ONLY:
            return joined
        # The input, also where features gate it (squeeze and excitation, a spatial
        # transformer), since what comes out is still like an image.
        images = [o for o in origins if o == RAW or o.is_gated]
        features = [o for o in origins if o.is_mixed() and not o.is_gated]
        used = tuple(n for o in origins if not o.raw for n in o.parameters)
        if images and used and not (features and name in JOINS):
            callers, is_gated = tuple(self._running), RAW not in origins
            self.first_uses.append(FirstUse(name, used, callers, is_gated))
            return replace(joined, is_gated=False)
        is_gated = bool(images) and (not features or name in PRODUCTS)
        return replace(joined, is_gated=is_gated)

    def _real(self, device: torch.device | None) -> torch.device | None:
        is_meta = device is not None and torch.device(device).type == "meta"
        return self._home if is_meta else device

    def _on_shapes(
        self,
        func: Any,
        args: Sequence[Any],
        keywords: dict[str, Any],
        tensors: list[Tensor],
        origin: Origin | None,
    ) -> Any:
        to_meta = origin is not None or any(t.is_meta for t in tensors)
        if "device" in keywords:
            # A constant made "where the input is" stays real.
            keywords["device"] = META if to_meta else self._real(keywords["device"])
        if not to_meta:
            return func(*args, **keywords)
        if func.overloadpacket.__name__ in NEEDS_VALUES:
            raise ValuesNeededError(func.overloadpacket.__name__)
        written = {id(t) for t in _tensors(written_arguments(func, args, keywords))}
        given: dict[int, Tensor] = {}

        def twin(tensor: Tensor) -> Tensor:
            if tensor.is_meta:
                return tensor
            stand_in = empty_twin(tensor)
            own, real = storage_of(stand_in), self._storage(tensor)
            if id(tensor) in written or real.cdata in self._origins:
                self._stands_for[own.cdata] = (own, real)
            given[id(stand_in)] = tensor
            return stand_in

        args, keywords = tree_map_only(Tensor, twin, (args, keywords))
        result = func(*args, **keywords)
        # An operator in place returns the tensor that it was given.
        return tree_map_only(Tensor, lambda t: given.get(id(t), t), result)


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def empty_twin(tensor: Tensor) -> Tensor:
    """The tensor's shape, strides and dtype on the meta device."""
    return torch.empty_strided(
        tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META
    )
