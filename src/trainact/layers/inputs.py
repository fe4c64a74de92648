"""Which inputs of a layer can statistics be made of? Others are refused, in words."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx.proxy import Proxy, TraceError


def refuse_proxy(x: Any) -> None:
    """Refuse to be written into a graph that would train without TrAct.

    Args:
        x: the input of a layer in training mode.

    Raises:
        TraceError: under `torch.fx.symbolic_trace`.
    """
    if isinstance(x, Proxy):
        msg = (
            "torch.fx cannot trace a layer under TrAct in training mode: trace first, "
            "then apply trainact to the traced model, or make trainact.TrActLayer a "
            "leaf of the tracer"
        )
        raise TraceError(msg)


def check_trainable(x: Tensor) -> None:
    """Refuse inputs of which TrAct makes no statistics.

    Args:
        x: the input of a layer that trains.

    Raises:
        RuntimeError: if it is complex or sparse, or that of a model being exported.
    """
    if torch.compiler.is_exporting():
        msg = (
            "a layer under TrAct is exported in training mode: call model.eval() "
            "first, or trainact.remove on a copy if the exported program is to train"
        )
        raise RuntimeError(msg)
    if x.is_complex():
        msg = (
            f"the input of a layer under TrAct is complex ({x.dtype}): TrAct needs "
            "real numbers, take it off with trainact.remove"
        )
        raise RuntimeError(msg)
    if x.layout is not torch.strided and not x.is_nested:
        msg = (
            f"the input of a layer under TrAct is sparse ({x.layout}): pass "
            "input.to_dense(), or take TrAct off with trainact.remove"
        )
        raise RuntimeError(msg)


def nested_rows(x: Tensor) -> Tensor:
    """The rows of all sequences of a nested tensor, one after the other.

    Args:
        x: with sequences of different lengths.

    Returns:
        ``[N, ..., P]``, without gaps and padding.
    """
    nested: Any = x
    if x.layout is torch.jagged and nested.lengths() is None:
        return nested.values()
    return torch.cat(nested.unbind())
