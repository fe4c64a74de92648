"""`trainact.functional` against the layers, whose gradients ``parity`` tests."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import trainact

from .tolerances import ORACLE_RTOL, relative_error

functional = trainact.functional


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_written_out(groups: int) -> None:
    layer = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=groups, dtype=torch.float64)
    x = torch.randn(3, 4, 9, 9, dtype=torch.float64)
    gram = functional.patch_gram(x, 3, stride=2, padding=1, groups=groups)
    assert gram.dtype == torch.float64
    assert gram.shape == ((36, 36) if groups == 1 else (2, 18, 18))
    weight = functional.precondition(
        layer.weight, functional.factor_from_gram(gram, lam=0.1)
    )
    assert torch.equal(weight, layer.weight)
    z = F.conv2d(x, weight, layer.bias, stride=2, padding=1, groups=groups)
    grad_z = torch.randn_like(z)
    (gradient,) = torch.autograd.grad(z, layer.weight, grad_z)
    trainact.TrAct(layer)(x).backward(grad_z)
    assert relative_error(gradient, layer.weight.grad) < ORACLE_RTOL


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("rows", [4, 40])
def test_a_linear_layer_written_out(rows: int, relative: bool) -> None:
    layer = nn.Linear(12, 5, dtype=torch.float64)
    x = torch.randn(rows, 12, dtype=torch.float64)
    settings = {"lam": 0.3, "relative": relative}
    factor = functional.factor_from_gram(x.mT @ x / rows, **settings)
    weights = [
        functional.precondition(layer.weight, x, **settings),
        functional.precondition(layer.weight, factor),
    ]
    grad_z = torch.randn(rows, 5, dtype=torch.float64)
    gradients = [
        torch.autograd.grad(x @ weight.T, layer.weight, grad_z)[0] for weight in weights
    ]
    trainact.TrAct(layer, **settings)(x).backward(grad_z)
    for gradient in gradients:
        assert relative_error(gradient, layer.weight.grad) < ORACLE_RTOL


def test_gram_dtype_is_float32_or_wider() -> None:
    x = torch.randn(2, 3, 8, 8)
    for given, expected in [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ]:
        assert functional.patch_gram(x.to(given), 3).dtype == expected


def test_nothing_is_computed_for_a_frozen_weight() -> None:
    weight = torch.zeros(2, 3)
    x = torch.full((4, 3), float("nan"))
    assert functional.precondition(weight, x) is weight


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: functional.precondition(w, torch.ones(5, 4)), "has 3 entries a row"),
        (lambda w: functional.precondition(w, torch.ones(0, 3)), "there are no rows"),
        (lambda w: functional.precondition(w, torch.ones(5, 3), lam=0), "lam=0 is not"),
        (lambda _: functional.factor_from_gram(torch.ones(3, 4)), r"expected \[n, n\]"),
        (lambda _: functional.factor_from_gram(torch.eye(3), lam=-1), "lam=-1 is not"),
    ],
)
def test_arguments_are_checked(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(nn.Parameter(torch.zeros(2, 3)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": 2}, "groups=2 does not divide the input's 3 channels"),
        ({"padding_mode": "mirror"}, "padding_mode 'mirror' is not one of zeros"),
        ({"kernel_size": (3, 3, 3)}, "has 3 values, but the input has 2 spatial"),
        ({"stride": 0}, r"stride=\(0, 0\) must be whole numbers of at least 1"),
        ({"padding": "full"}, "padding 'full' is not known"),
        ({"kernel_size": 9}, "has no patches of size"),
    ],
)
def test_settings_are_checked(change, message) -> None:
    arguments = {"kernel_size": 3, **change}
    with pytest.raises(ValueError, match=message):
        functional.patch_gram(torch.randn(2, 3, 8, 8), **arguments)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \[batch, channels, \*spatial\]"):
        functional.patch_gram(torch.randn(3, 8), 3)
