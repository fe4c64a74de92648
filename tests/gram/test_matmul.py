"""Products keep float32's precision where the settings would round them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.cases import oracle_gradient
from tests.tolerances import FLOAT32_PROMISE, ORACLE_RTOL, relative_error
from trainact import precision
from trainact.damping import Damping
from trainact.factor import apply_factor
from trainact.geometry import layer_geometry
from trainact.gram import matmul
from trainact.gram.cost import cheapest_dim
from trainact.gram.matmul import (
    TF32_DROPPED_BITS,
    operand_parts,
    parts_product,
    parts_self_product,
    split_for_tf32,
)
from trainact.statistics.local import local_factor

aten = torch.ops.aten
PRODUCTS = {aten.mm.default, aten.bmm.default}


def to_tf32(x: torch.Tensor) -> torch.Tensor:
    """Round to 10 mantissa bits, as tensor cores do with their operands."""
    mantissa, exponent = torch.frexp(x)
    scale = 2.0 ** (24 - TF32_DROPPED_BITS)
    return torch.ldexp((mantissa * scale).round() / scale, exponent)


class RoundProducts(TorchDispatchMode):
    """A device on which float32 products have TF32 operands."""

    rounded = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in PRODUCTS and args[0].dtype == torch.float32:
            self.rounded += 1
            args = tuple(map(to_tf32, args))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("offset", [0.0, 1.0], ids=["centred", "positive"])
def test_split_products_on_tf32_hardware(offset: float) -> None:
    first, second = torch.randn(2, 2, 27, 1000) * 0.3 + offset
    parts, others = split_for_tf32(first), split_for_tf32(second)
    assert torch.equal(sum(parts), first)
    with RoundProducts() as hardware:
        plain = first @ second.mT
        own, mixed = parts_self_product(parts), parts_product(parts, others)
    assert hardware.rounded == 6
    bound = 4 * 2.0**-22
    truth = first.double() @ second.double().mT
    assert relative_error(plain, truth) > 8 * bound  # the emulation does round
    assert relative_error(mixed, truth) < bound
    assert relative_error(own, first.double() @ first.double().mT) < bound
    assert torch.equal(own, own.mT)


def test_split_products_pass_on_what_is_not_finite() -> None:
    for bad in (math.inf, math.nan):
        columns = torch.ones(3, 8)
        columns[1, 2] = bad
        assert not parts_self_product(split_for_tf32(columns))[1, 1].isfinite()


@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16, torch.float16])
def test_what_tf32_holds_exactly_is_not_split(given: torch.dtype, monkeypatch) -> None:
    monkeypatch.setattr(precision, "rounds_float32", lambda _: True)
    monkeypatch.setattr(matmul, "SPLIT_DEVICES", ("cpu",))
    x = torch.cat([torch.randn(5, 40), 1e-7 * torch.randn(5, 40)]).to(given)
    wide = x.float()
    parts = operand_parts(wide, given)
    assert len(parts) == (2 if given == torch.float32 else 1)
    assert torch.equal(to_tf32(parts[0]), parts[0])
    assert torch.equal(sum(parts), wide)


@pytest.mark.parametrize("size", [1, 95, 97, 200, 401])
def test_symmetric_products_in_blocks(size: int) -> None:
    columns = torch.randn(2, size, 60, dtype=torch.float64)
    value = matmul.self_product(columns)
    assert relative_error(value, columns @ columns.mT) < ORACLE_RTOL


LAYERS = {
    "conv": (lambda: nn.Conv2d(3, 8, 5, padding=2), (4, 3, 12, 12)),
    "conv by shifts": (lambda: nn.Conv2d(3, 8, 5, padding=2), (4, 3, 48, 48)),
    "linear": (lambda: nn.Linear(40, 8), (200, 40)),
    "linear, dual": (lambda: nn.Linear(200, 8), (40, 200)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("split", [False, True], ids=["float64", "split"])
def test_gradient_where_products_are_rounded(name: str, split: bool, monkeypatch):
    monkeypatch.setattr(precision, "rounds_float32", lambda _: True)
    if split:
        monkeypatch.setattr(matmul, "SPLIT_DEVICES", ("cpu",))
    build, shape = LAYERS[name]
    plain, x = build(), torch.randn(shape)
    z = plain(x)
    grad_z = torch.randn_like(z)
    z.backward(grad_z)
    truth = oracle_gradient(plain, x, grad_z, 0.1)
    geometry = layer_geometry(plain)
    by_shifts = cheapest_dim(geometry, tuple(x.shape), "cpu") is not None
    assert by_shifts == ("shifts" in name)
    with RoundProducts() as hardware:
        factor = local_factor(x, geometry, Damping(0.1))
        result = apply_factor(plain.weight.grad, *factor)
    assert (hardware.rounded > 0) == (split and "dual" not in name)
    assert relative_error(result, truth) < FLOAT32_PROMISE
