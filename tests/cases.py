"""Layers and inputs for the tests, and what the oracle says of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainact import reference
from trainact.geometry import Geometry, layer_geometry

from .tolerances import solve_rtol

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
CONV_KINDS = ("conv1d", "conv2d", "conv3d")
KINDS = ("linear", *CONV_KINDS)
MODES = ("zeros", "reflect", "replicate", "circular")


@dataclass(frozen=True)
class Case:
    """A layer's settings and its input's shape."""

    kind: str  # "linear" or "conv"
    shape: tuple[int, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    def layer(self, dtype: torch.dtype) -> nn.Module:
        if self.kind == "linear":
            return nn.Linear(**self.settings, dtype=dtype)
        spatial = len(self.settings["kernel_size"])
        return CONVS[spatial](**self.settings, dtype=dtype)

    def input(self, dtype: torch.dtype, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(self.shape, generator=generator, dtype=torch.float64).to(
            dtype
        )

    def gradients(
        self,
        layer: nn.Module,
        x: Tensor,
        grad_z: Tensor,
        lam: float = 0.1,
        relative: bool = False,
    ) -> dict[str, Tensor]:
        """What TrAct makes of the gradients of all parameters but the bias."""
        truth = oracle_gradient(layer, x, grad_z, lam, relative)
        return {"weight": torch.as_tensor(truth)}


def draw_case(rng: np.random.Generator, kind: str) -> Case:
    """Draw settings that torch accepts: kind is linear, conv1d, conv2d or conv3d."""
    return _draw_linear(rng) if kind == "linear" else _draw_conv(rng, int(kind[4]))


def drawn_convs(
    kind: str, count: int, seed: int, dtype: torch.dtype = torch.float64
) -> Iterator[tuple[Case, nn.Module, Tensor, Geometry]]:
    """Drawn convolutions with the batch that they take and their geometry."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        case = draw_case(rng, kind)
        layer, x = case.layer(dtype), case.input(dtype)
        geometry = layer_geometry(layer)
        yield (
            case,
            layer,
            x if x.ndim == geometry.num_spatial + 2 else x[None],
            geometry,
        )


def _draw_linear(rng: np.random.Generator) -> Case:
    features = int(rng.integers(1, 40))
    lead = tuple(int(n) for n in rng.integers(1, 9, size=rng.integers(0, 4)))
    settings = {
        "in_features": features,
        "out_features": int(rng.integers(1, 6)),
        "bias": bool(rng.integers(2)),
    }
    return Case("linear", (*lead, features), settings)


def _draw_conv(rng: np.random.Generator, spatial: int) -> Case:
    while True:
        case = _propose_conv(rng, spatial)
        if _is_accepted(case):
            return case


def _propose_conv(rng: np.random.Generator, spatial: int) -> Case:
    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(int(n) for n in rng.integers(low, high, size=spatial))

    groups = int(rng.choice([1, 1, 2, 3]))
    stride = each(1, 4)
    padding: Any = each(0, 3)
    if rng.random() < 0.3:
        padding = str(rng.choice(["valid", "same"]))
        stride = (1,) * spatial if padding == "same" else stride
    channels = groups * int(rng.integers(1, 4))
    settings = {
        "in_channels": channels,
        "out_channels": groups * int(rng.integers(1, 4)),
        "kernel_size": each(1, 5 if spatial < 3 else 4),
        "stride": stride,
        "padding": padding,
        "dilation": each(1, 3),
        "groups": groups,
        "bias": bool(rng.integers(2)),
        "padding_mode": str(rng.choice(MODES)),
    }
    batch = () if rng.random() < 0.2 else (int(rng.integers(1, 5)),)
    return Case(
        "conv", (*batch, channels, *each(1, 10 if spatial < 3 else 7)), settings
    )


def _is_accepted(case: Case) -> bool:
    try:
        with torch.no_grad():
            return case.layer(torch.float32)(case.input(torch.float32)).numel() > 0
    except RuntimeError:
        return False


def oracle_rows(layer: nn.Module, x: Tensor) -> np.ndarray:
    """Rows of the unfolded batch, ``[groups, N, P]`` in float64."""
    values = x.detach().double().numpy()
    if isinstance(layer, nn.Linear):
        return values.reshape(1, -1, values.shape[-1])
    geometry = layer_geometry(layer)
    images = values if values.ndim == geometry.num_spatial + 2 else values[None]
    return reference.unfold(
        images,
        geometry.kernel_size,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        geometry.groups,
        geometry.padding_mode,
    )


def oracle_grad_rows(layer: nn.Module, grad_z: Tensor) -> np.ndarray:
    """Gradient of the pre-activations in the oracle's layout, ``[groups, N, O]``."""
    values = grad_z.detach().double().numpy()
    if isinstance(layer, nn.Linear):
        return values.reshape(1, -1, values.shape[-1])
    spatial = len(layer.kernel_size)
    images = values if values.ndim == spatial + 2 else values[None]
    channels_last = np.moveaxis(images, 1, -1)
    rows = channels_last.reshape(-1, layer.groups, layer.out_channels // layer.groups)
    return np.moveaxis(rows, 1, 0)


def oracle_gradient(
    layer: nn.Module, x: Tensor, grad_z: Tensor, lam: float, relative: bool = False
) -> np.ndarray:
    """What TrAct's weight gradient is, in the weight's shape."""
    groups = _groups(layer, x, grad_z, lam, relative)
    gradients = [reference.tract_gradient(*group) for group in groups]
    return np.concatenate(gradients).reshape(layer.weight.shape)


def oracle_rtol(
    layer: nn.Module,
    x: Tensor,
    grad_z: Tensor,
    lam: float,
    dtype: torch.dtype,
    relative: bool = False,
) -> float:
    """How far from `oracle_gradient` rounding to a dtype can lead."""
    groups = _groups(layer, x, grad_z, lam, relative)
    return max(solve_rtol(dtype, x_NP, lam, grad_z) for grad_z, x_NP, lam in groups)


def _groups(
    layer: nn.Module, x: Tensor, grad_z: Tensor, lam: float, relative: bool
) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Gradient rows, rows and λ of each group; of zeros, a relative λ is as it is."""
    rows = zip(oracle_grad_rows(layer, grad_z), oracle_rows(layer, x), strict=True)
    return [
        (g, r, lam * float(np.mean(r**2)) if relative and r.any() else lam)
        for g, r in rows
    ]


def backward(layer: nn.Module, x: Tensor, seed: int = 1) -> tuple[Tensor, Tensor]:
    """One forward and backward pass with a random gradient: (z, grad_z)."""
    z = layer(x)
    generator = torch.Generator().manual_seed(seed)
    grad_z = torch.randn(z.shape, generator=generator, dtype=torch.float64).to(z.dtype)
    z.backward(grad_z)
    return z.detach(), grad_z
