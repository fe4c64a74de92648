"""`relative=True`: λ in units of tr A / n, each group's own, whatever the route."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import trainact
from tests.parity.table import LAYERS
from trainact.damping import Damping
from trainact.factor import factorise

from .cases import Case, backward, draw_case, oracle_gradient, oracle_rtol
from .drawing import examples
from .tolerances import FLOAT32_PROMISE, ORACLE_RTOL, relative_error

KINDS = ("linear", "conv1d", "conv2d", "conv3d")
LAM = 0.1


def truth(layer: nn.Module, x: Tensor, grad_z: Tensor, lam: float = LAM) -> np.ndarray:
    """The oracle's gradient, for each group at its own λ."""
    return oracle_gradient(layer, x, grad_z, lam, relative=True)


def gradient(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    layer.zero_grad()
    _, grad_z = backward(layer, x)
    return layer.weight.grad.clone(), grad_z


@pytest.mark.parametrize("kind", KINDS)
def test_float64(kind: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        case = draw_case(rng, kind)
        layer = trainact.TrAct(case.layer(torch.float64), LAM, relative=True)
        x = 7 * case.input(torch.float64)
        grad, grad_z = gradient(layer, x)
        assert relative_error(grad, truth(layer, x, grad_z)) < ORACLE_RTOL, case


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-4, 0.3, 255.0, 1e5]))
@examples(25)
def test_the_change_of_pre_activations_does_not_depend_on_the_scale(
    kind: str, seed: int, scale: float
) -> None:
    case = draw_case(np.random.default_rng(seed), kind)
    layer = trainact.TrAct(case.layer(torch.float32), LAM, relative=True)
    x = case.input(torch.float32)
    grad, grad_z = gradient(layer, x)
    scaled, _ = gradient(layer, scale * x)
    # Each of the two is rounded.
    bound = 2 * oracle_rtol(layer, x, grad_z, LAM, torch.float32, relative=True)
    assert relative_error(scale * scaled, grad) < bound, case


def test_without_it_the_scale_matters() -> None:
    layer = trainact.TrAct(nn.Linear(5, 3, dtype=torch.float64), LAM)
    x = Case("linear", (20, 5)).input(torch.float64)
    grad, _ = gradient(layer, x)
    scaled, _ = gradient(layer, 0.1 * x)
    assert relative_error(0.1 * scaled, grad) > 0.5


def test_behind_a_norm_the_scale_matters_still() -> None:
    """As `docs/extensions.md` says: 1 / c² for TrAct, nothing for vanilla."""
    scale = 100.0

    def first_gradient(factor: float, tract: bool) -> Tensor:
        torch.manual_seed(0)
        first, norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, eps=1e-12)
        model = nn.Sequential(first, norm, nn.ReLU(), nn.Conv2d(8, 2, 3)).double()
        if tract:
            trainact.TrAct(first, LAM, relative=True)
        x = Case("", (4, 3, 9, 9)).input(torch.float64)
        model(factor * x).square().mean().backward()
        return first.weight.grad

    vanilla = [first_gradient(factor, tract=False) for factor in (1.0, scale)]
    assert relative_error(vanilla[1], vanilla[0]) < FLOAT32_PROMISE
    tract = [first_gradient(factor, tract=True) for factor in (1.0, scale)]
    assert relative_error(scale**2 * tract[1], tract[0]) < FLOAT32_PROMISE


def compiled(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    torch._dynamo.reset()
    return gradient(torch.compile(layer, backend="aot_eager", fullgraph=True), x)


def transformed(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    grad_z = Case("", tuple(layer(x).shape)).input(torch.float64, 1)

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return (torch.func.functional_call(layer, parameters, (x,)) * grad_z).sum()

    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    return torch.func.grad(loss)(parameters)["weight"], grad_z


def deferred(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    before = layer.weight.detach().clone()
    grad_z = Case("", tuple(layer(x).shape)).input(torch.float64, 1)
    with trainact.deferred(layer, optimizer):
        for part, grad in zip(x.split(1), grad_z.split(1), strict=True):
            layer(part).backward(grad)
        optimizer.step()
    return before - layer.weight.detach(), grad_z


def estimated(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    layer.estimate = trainact.Estimate(every=2)
    return gradient(layer, x)


@pytest.mark.parametrize("way", [compiled, transformed, deferred, estimated])
@pytest.mark.parametrize("name", LAYERS)
def test_ways_of_training(name: str, way) -> None:
    plain = LAYERS[name].layer(torch.float64)
    layer = trainact.TrAct(copy.deepcopy(plain), LAM, relative=True)
    x = 3 * LAYERS[name].input(torch.float64)
    grad, grad_z = way(layer, x)
    assert relative_error(grad, truth(plain, x, grad_z)) < ORACLE_RTOL


def test_of_zeros_it_is_taken_as_it_is() -> None:
    layer = trainact.TrAct(nn.Linear(5, 3), LAM, relative=True)
    grad, _ = gradient(layer, torch.zeros(20, 5))
    assert not grad.any()
    zeros = torch.zeros(1, 5, 5, dtype=torch.float64)
    inverse = factorise(zeros, Damping(LAM, relative=True), torch.float64).inner
    assert relative_error(inverse[0], torch.eye(5) / LAM) < ORACLE_RTOL


def test_functions_take_it() -> None:
    x = Case("", (20, 5)).input(torch.float64)
    weight = torch.zeros(3, 5, dtype=torch.float64, requires_grad=True)
    factor = trainact.functional.factor_from_gram(x.mT @ x / 20, LAM, relative=True)
    grads = [
        torch.autograd.grad((x @ marked.mT)[:, 0].sum(), weight)[0]
        for marked in (
            trainact.functional.precondition(weight, x, LAM, relative=True),
            trainact.functional.precondition(weight, factor),
        )
    ]
    lam = LAM * x.square().mean()
    damped = x.mT @ x / 20 + lam * torch.eye(5, dtype=torch.float64)
    expected = torch.linalg.solve(damped, x.sum(0))
    for grad in grads:
        assert relative_error(grad[0], expected) < ORACLE_RTOL


def test_it_is_shown_changed_copied_and_taken_off() -> None:
    layer = trainact.apply(nn.Sequential(nn.Linear(5, 3)), LAM, relative=True)[0]
    assert repr(layer).endswith(", lam=0.1, relative=True)")
    assert pickle.loads(pickle.dumps(copy.deepcopy(layer))).relative
    layer.lam = 0.3
    assert layer.relative
    x = 10 * Case("", (20, 5)).input(torch.float32)
    grad, grad_z = gradient(layer, x)
    expected = truth(layer, x, grad_z, 0.3)
    assert relative_error(grad, expected) < FLOAT32_PROMISE
    layer.relative = False
    assert relative_error(gradient(layer, x)[0], expected) > 0.1
    layer.relative = True
    trainact.remove(layer)
    assert type(layer) is nn.Linear
    assert not trainact.TrAct(layer).relative


@pytest.mark.parametrize("value", ["trace", 1, None])
def test_what_is_no_bool_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"relative=.* is not True or False"):
        trainact.TrAct(nn.Linear(2, 2), relative=value)
    layer = trainact.TrAct(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="give the number as lam="):
        layer.relative = value


def test_diagnostics_know_the_damping() -> None:
    layer = trainact.TrAct(nn.Linear(5, 3, dtype=torch.float64), LAM, relative=True)
    x = 10 * Case("", (20, 5)).input(torch.float64)
    _, grad_z = gradient(layer, x)
    figures = trainact.diagnostics.diagnose(layer, x, grad_z)
    lam = LAM * float(x.square().mean())
    assert figures.lam == pytest.approx(lam)
    plain = trainact.TrAct(trainact.remove(layer), lam)
    same = trainact.diagnostics.diagnose(plain, x, grad_z)
    assert figures.scalars() == pytest.approx(same.scalars())
