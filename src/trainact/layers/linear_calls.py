"""Intercept the linear maps that a layer's forward calls.

A subclass may change its input and its weight first (padding, standardisation, masks).
Where it combines them it calls one of torch's functions, whose arguments say
everything: the effective weight, the input and the geometry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from trainact.geometry import Geometry, make_geometry

# Functions that take only a shape or a dtype from the arguments after the first.
_TAKE_FORM_ONLY = (
    Tensor.expand_as,
    Tensor.reshape_as,
    Tensor.to,
    Tensor.type_as,
    Tensor.view_as,
)

# (effective weight, input, geometry) -> weight to use
OnCall = Callable[[Tensor, Tensor, Geometry], Tensor]


class LinearCalls(TorchFunctionMode):
    """While entered, replaces the weight of every linear map by what ``on_call`` gives.

    Seen are `torch.nn.functional.linear`, ``conv1d``, ``conv2d`` and ``conv3d``; not
    what is written as a matrix product, and not what other functions of torch call.
    Tensors that are computed from ``weights``, of which the layer's weight is made, in
    any other way are noted for `derives`.
    """

    def __init__(self, on_call: OnCall, weights: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self._on_call = on_call
        self._derived = list(weights)

    def derives(self, values: Any) -> bool:
        """Whether a gradient would go from values to the weight past the seen maps."""
        return any(t is d for t in _tensors(values) for d in self._derived)

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
            z = func(*args, **kwargs)
            taken = args[:1] if func in _TAKE_FORM_ONLY else (args, kwargs)
            self._note(args[0] if func is Tensor.__setitem__ else z, taken)
            return z
        if len(args) > 1:
            args = (args[0], weight, *args[2:])
        else:
            kwargs = {**kwargs, "weight": weight}
        z = func(*args, **kwargs)
        rest = {k: v for k, v in kwargs.items() if k != "weight"}
        self._note(z, (args[:1], args[2:], rest))
        return z

    def _note(self, values: Any, taken: Any) -> None:
        """Note tensors as derived from the weight, if what made them is."""
        if self.derives(taken):
            self._derived += [t for t in _tensors(values) if t.requires_grad]

    def _replace_linear(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        return self._on_call(weight, input, Geometry(weight.shape[-1]))

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


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, tuple | list):
        return [tensor for value in values for tensor in _tensors(value)]
    return []


def _one_or_each(value: int | Sequence[int]) -> int | tuple[int, ...]:
    """Torch's convolutions take a single number in brackets for all dimensions."""
    if isinstance(value, int):
        return value
    return value[0] if len(value) == 1 else tuple(value)
