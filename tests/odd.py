"""Layers that compute with another weight or input than they hold, and their oracle.

The oracle says what the gradient of the effective weight is; the chain rule, here
written out once more and differentiated in float64, says what the parameters get.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from .cases import Case, oracle_gradient

Parameters = dict[str, Tensor]


def its_own(_layer: nn.Module, named: Parameters) -> Tensor:
    return named["weight"]


@dataclass(frozen=True)
class OddCase(Case):
    """A layer of a class of its own.

    Attributes:
        make: builds it, in float32.
        effective: (layer, parameters) -> the weight that meets the input.
        pads: whether it pads as TensorFlow does, in its forward.
    """

    make: Callable[[], nn.Module] = nn.Identity
    effective: Callable[[nn.Module, Parameters], Tensor] = its_own
    pads: bool = False

    def layer(self, dtype: torch.dtype) -> nn.Module:
        return self.make().to(dtype)

    def padded(self, layer: nn.Module, x: Tensor) -> Tensor:
        if not self.pads:
            return x
        borders: list[int] = []
        for dim in (-1, -2):
            size, kernel, stride = x.shape[dim], layer.kernel_size[dim], 2
            total = (math.ceil(size / stride) - 1) * stride + kernel - size
            borders += [total // 2, total - total // 2]
        return F.pad(x, borders)

    def gradients(
        self,
        layer: nn.Module,
        x: Tensor,
        grad_z: Tensor,
        lam: float = 0.1,
        relative: bool = False,
    ) -> Parameters:
        """What TrAct makes of the gradients of all parameters but the bias."""
        named = {
            name: p.detach().double().requires_grad_()
            for name, p in layer.named_parameters()
            if name != "bias"
        }
        truth = oracle_gradient(layer, self.padded(layer, x), grad_z, lam, relative)
        gradients = torch.autograd.grad(
            self.effective(layer, named), list(named.values()), torch.as_tensor(truth)
        )
        return dict(zip(named, gradients, strict=True))


def raw_weight(named: Parameters) -> Tensor:
    """The parameter, or its gradient, that the effective weight is made of."""
    for name in ("weight", "parametrizations.weight.original1"):
        if name in named:
            return named[name]
    raise KeyError(list(named))


def standardised(layer: nn.Module, named: Parameters) -> Tensor:
    flat = named["weight"].flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    flat = centred / (centred.square().mean(1, keepdim=True) + layer.eps).sqrt()
    if "gain" in named:
        flat = flat * named["gain"].flatten(1) * layer.scale
    return flat.view_as(named["weight"])


def weight_normed(_layer: nn.Module, named: Parameters) -> Tensor:
    length = named["parametrizations.weight.original0"]
    direction = named["parametrizations.weight.original1"]
    norm = direction.flatten(1).norm(dim=1).view_as(length)
    return length * direction / norm


def timm_layer(name: str, *args: int, **settings: object) -> Callable[[], nn.Module]:
    return lambda: getattr(pytest.importorskip("timm.layers"), name)(*args, **settings)


class Named(nn.Conv2d):
    """A subclass that only has another name."""


class Centred(nn.Linear):
    """A subclass of ours that changes both the weight and the input."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean(1, keepdim=True)
        return F.linear(bias=self.bias, weight=weight, input=input)


def centred(_layer: nn.Module, named: Parameters) -> Tensor:
    return named["weight"] - named["weight"].mean(1, keepdim=True)


ODD = {
    "named": OddCase(
        "conv",
        (3, 3, 7, 6),
        make=lambda: Named(3, 4, 3, padding=1),
    ),
    "centred linear": OddCase(
        "linear", (16, 7), make=lambda: Centred(7, 3), effective=centred
    ),
    "same conv": OddCase(
        "conv",
        (3, 3, 9, 8),
        make=timm_layer("Conv2dSame", 3, 4, 3, stride=2),
        pads=True,
    ),
    "std conv": OddCase(
        "conv",
        (3, 4, 9, 9),
        make=timm_layer("StdConv2d", 4, 6, 3, padding=1, groups=2, bias=True),
        effective=standardised,
    ),
    "std conv, same": OddCase(
        "conv",
        (3, 3, 9, 8),
        make=timm_layer("StdConv2dSame", 3, 4, 3, stride=2),
        effective=standardised,
        pads=True,
    ),
    "scaled std conv, dual": OddCase(
        "conv",
        (2, 3, 8, 8),
        make=timm_layer("ScaledStdConv2d", 3, 4, 4, stride=4, padding=0),
        effective=standardised,
    ),
    "scaled std conv, same": OddCase(
        "conv",
        (3, 3, 9, 8),
        make=timm_layer("ScaledStdConv2dSame", 3, 4, 3, stride=2),
        effective=standardised,
        pads=True,
    ),
    "weight norm": OddCase(
        "conv",
        (3, 4, 8, 8),
        make=lambda: parametrizations.weight_norm(nn.Conv2d(4, 6, 3, groups=2)),
        effective=weight_normed,
    ),
    "weight norm, dual": OddCase(
        "linear",
        (5, 40),
        make=lambda: parametrizations.weight_norm(nn.Linear(40, 3)),
        effective=weight_normed,
    ),
}
