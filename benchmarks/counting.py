"""What a call of a layer really sends, keeps and multiplies, counted while it runs."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, cast

import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import trainact
from benchmarks.scaling_operations import local_work, synced_work
from benchmarks.scaling_volumes import (
    Collective,
    Stem,
    collectives,
    local_kept_bytes,
)
from trainact.geometry import Geometry, layer_geometry


class KeptStorages(TorchDispatchMode):
    """Storages that operators make meanwhile, and which of them are still alive."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self._known = {_address(tensor) for tensor in known}
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _address(leaf) not in self._known:
                storage = leaf.untyped_storage()
                self._made[_address(leaf)] = StorageWeakRef(storage), storage.nbytes()
        return result

    @property
    def alive(self) -> int:
        """Their bytes."""
        return sum(size for ref, size in self._made.values() if not ref.expired())


def _address(tensor: Tensor) -> int:
    # Not reused while a weak reference to the storage exists.
    return cast("Any", tensor.untyped_storage())._cdata


@contextmanager
def _replaced(make: Callable[[str, Any], Any]) -> Generator[None]:
    """Other functions in place of the collectives that Python code calls."""
    plain: dict[str, Any] = {n: getattr(dist, n) for n in ("all_reduce", "all_gather")}
    for name, function in plain.items():
        setattr(dist, name, make(name, function))
    try:
        yield
    finally:
        for name, function in plain.items():
            setattr(dist, name, function)


@contextmanager
def sent_collectives() -> Generator[list[Collective]]:
    """What Python code hands to `torch.distributed` meanwhile, call by call."""
    calls: list[Collective] = []

    def counting(name: Any, function: Any) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            sent = args[-1].nbytes  # all_gather has what it fills first
            calls.append(Collective(name, sent))
            return function(*args, **kwargs)

        return call

    with _replaced(counting):
        yield calls


@contextmanager
def waited_seconds() -> Generator[list[float]]:
    """How long Python code waits meanwhile in collectives."""
    seconds: list[float] = []

    def timing(_: str, function: Any) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **kwargs)
            seconds.append(time.perf_counter() - start)
            return result

        return call

    with _replaced(timing):
        yield seconds


def read_stem(layer: nn.Module, x: Tensor) -> Stem:
    """A layer and a rank's input in the terms of the formulas."""
    weight = cast("Tensor", layer.weight)
    if isinstance(layer, nn.Linear):
        x = x.reshape(-1, x.shape[-1])
        geometry = Geometry(x.shape[-1], (), (), (), ())
    else:
        geometry = layer_geometry(layer)
    return Stem(geometry, len(weight), tuple(x.shape), x.dtype)


def step(layer: nn.Module, x: Tensor) -> dict[str, Any]:
    """One forward and backward pass: what it sent, kept in between and multiplied."""
    known = [x, *layer.parameters()]
    with FlopCounterMode(display=False) as flops, sent_collectives() as calls:
        with KeptStorages(known) as storages:
            z = layer(x)
        kept = storages.alive
        z.sum().backward()
    layer.zero_grad()
    return {
        "collectives": [asdict(call) for call in calls],
        "kept_bytes": kept,
        "products": flops.get_total_flops(),
    }


def counted(layer: nn.Module, x: Tensor, sync: bool) -> dict[str, Any]:
    """What TrAct adds to a plain layer's step on this rank."""
    plain = step(layer, x)
    ours = step(trainact.TrAct(copy.deepcopy(layer), sync=sync), x)
    for name in ("kept_bytes", "products"):
        ours[name] -= plain[name]
    return ours


def predicted(layer: nn.Module, x: Tensor, rows_by_rank: list[int]) -> dict[str, Any]:
    """The same by the formulas; rows of one rank stand for statistics of its own."""
    stem = read_stem(layer, x)
    if len(rows_by_rank) == 1:
        work, kept = local_work(stem, x.device.type), local_kept_bytes(stem)
    else:
        work, kept = synced_work(stem, x.device.type, sum(rows_by_rank)), 0
    return {
        "collectives": [asdict(call) for call in collectives(stem, rows_by_rank)],
        "kept_bytes": kept,
        "products": work.products,
    }
