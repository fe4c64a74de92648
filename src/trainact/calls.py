"""The linear maps that a layer computes, seen as they are called.

What a subclass does with its input and its weight before the two meet (padding,
standardisation, masks) is its own affair; where they meet it calls one of torch's
functions, whose arguments say everything: the effective weight, the input and the
geometry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from trainact.geometry import Geometry, make_geometry

# (effective weight, input, geometry or None for a linear map) -> weight to use
OnCall = Callable[[Tensor, Tensor, Geometry | None], Tensor]


class LinearCalls(TorchFunctionMode):
    """While entered, hands the weight of every linear map that is called to a function.

    Seen are `torch.nn.functional.linear`, ``conv1d``, ``conv2d`` and ``conv3d``; not
    what is written as a matrix product, and not what other functions of torch call.

    Args:
        on_call: given (weight, input, geometry), returns the weight to use instead.
    """

    def __init__(self, on_call: OnCall) -> None:
        super().__init__()
        self._on_call = on_call

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear:
            weight = self._replace_linear(*args, **kwargs)
        elif func in (torch.conv1d, torch.conv2d, torch.conv3d):
            weight = self._replace_conv(*args, **kwargs)
        else:
            return func(*args, **kwargs)
        if len(args) > 1:
            return func(args[0], weight, *args[2:], **kwargs)
        return func(*args, **{**kwargs, "weight": weight})

    def _replace_linear(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        return self._on_call(weight, input, None)

    def _replace_conv(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,  # noqa: ARG002
        stride: int | Sequence[int] = 1,
        padding: str | int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> Tensor:
        geometry = make_geometry(
            channels=weight.shape[1] * groups,
            kernel_size=tuple(weight.shape[2:]),
            stride=_one_or_each(stride),
            padding=padding if isinstance(padding, str) else _one_or_each(padding),
            dilation=_one_or_each(dilation),
            groups=groups,
            padding_mode="zeros",  # other borders are padded before the call
            num_spatial=weight.ndim - 2,
        )
        return self._on_call(weight, input, geometry)


def _one_or_each(value: int | Sequence[int]) -> int | tuple[int, ...]:
    """Torch's convolutions take a single number in brackets for all dimensions."""
    if isinstance(value, int):
        return value
    return value[0] if len(value) == 1 else tuple(value)
