"""torch.func and higher derivatives: right, or an error that says what is not.

- Per-sample gradients: each sample with its own statistics
  (`test_per_sample_gradients`); ensembles on data of their own (`test_ensemble`).
- A gradient is preconditioned in reverse and forward mode alike, so that the one is the
  other's transpose (`test_jvp_and_vjp_are_transposes`), and Hessian products agree in
  both orders (`test_hessian_products`).
- The layer's derivatives that are not the weight's are the ordinary ones to any order
  (`test_gradcheck`, `test_jvp_of_the_input`).

Gradient penalties: ``test_span.py``.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import (
    functional_call,
    grad,
    jvp,
    linearize,
    stack_module_state,
    vjp,
    vmap,
)

import trainact
from tests.cases import oracle_gradient
from tests.parity.table import FEW, LAYERS, gradient_like
from tests.tolerances import ORACLE_RTOL, relative_error


@pytest.fixture(params=LAYERS)
def pair(request) -> tuple[nn.Module, nn.Module, Tensor]:
    """The layer under TrAct, the plain one, and an input."""
    case = LAYERS[request.param]
    plain = case.layer(torch.float64)
    return trainact.TrAct(copy.deepcopy(plain)), plain, case.input(torch.float64)


def detached(layer: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in layer.named_parameters()}


# Compiling takes a second for each.
@pytest.mark.parametrize(
    ("name", "compiled"),
    [(name, False) for name in LAYERS] + [(name, True) for name in FEW],
)
def test_per_sample_gradients(name: str, compiled: bool) -> None:
    case = LAYERS[name]
    layer, x = trainact.TrAct(case.layer(torch.float64)), case.input(torch.float64)
    grad_z = gradient_like(layer(x))

    def loss(parameters, sample, grad_sample):
        z = functional_call(layer, parameters, (sample[None],))
        return (z * grad_sample[None]).sum()

    per_sample = vmap(grad(loss), in_dims=(None, 0, 0))
    if compiled:
        torch._dynamo.reset()
        per_sample = torch.compile(per_sample, backend="aot_eager", fullgraph=True)
    gradients = per_sample(detached(layer), x, grad_z)["weight"]
    truth = [
        oracle_gradient(layer, x[i : i + 1], grad_z[i : i + 1], 0.1)
        for i in range(len(x))
    ]
    assert relative_error(gradients, np.stack(truth)) < ORACLE_RTOL


def test_ensemble(pair) -> None:
    layer, _, x = pair
    members = [copy.deepcopy(layer) for _ in range(3)]
    for member in members:
        nn.init.normal_(member.weight)
    stacked, _ = stack_module_state(members)
    stacked = {name: p.detach() for name, p in stacked.items()}
    skeleton = copy.deepcopy(layer).to("meta")
    inputs = torch.stack([x, 2 * x, x + 1])
    grad_z = gradient_like(layer(x))

    def loss(parameters, x):
        return (functional_call(skeleton, parameters, (x,)) * grad_z).sum()

    gradients = vmap(grad(loss))(stacked, inputs)["weight"]
    truth = [oracle_gradient(layer, own, grad_z, 0.1) for own in inputs]
    assert relative_error(gradients, np.stack(truth)) < ORACLE_RTOL


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")
def test_jvp_and_vjp_are_transposes(pair) -> None:
    """A tangent T of the weight becomes T P, in all three ways to ask for it."""
    layer, _, x = pair

    def call(weight):
        return functional_call(layer, {"weight": weight}, (x,))

    weight = layer.weight.detach()
    tangent, grad_z = torch.randn_like(weight), torch.randn_like(layer(x))
    (gradient,) = vjp(call, weight)[1](grad_z)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(weight, tangent).requires_grad_()
        along_dual = forward_ad.unpack_dual(call(dual)).tangent
    ways = [jvp(call, (weight,), (tangent,))[1], along_dual]
    # torch.func.linearize loses circular padding of plain layers too (uninitialised).
    if getattr(layer, "padding_mode", "zeros") != "circular":
        ways.append(linearize(call, weight)[1](tangent))
    for along in ways:
        error = relative_error((along * grad_z).sum(), (gradient * tangent).sum())
        assert error < ORACLE_RTOL
    truth = oracle_gradient(layer, x, grad_z, 0.1)
    assert relative_error(gradient, truth) < ORACLE_RTOL


def test_jvp_of_the_input(pair) -> None:
    layer, plain, x = pair
    tangent = torch.randn_like(x)
    along = [jvp(module, (x,), (tangent,))[1] for module in (layer, plain)]
    assert torch.equal(*along)
    along = []
    for module in (layer, plain):
        with forward_ad.dual_level():
            z = module(forward_ad.make_dual(x, tangent))
            along.append(forward_ad.unpack_dual(z).tangent)
    assert torch.equal(*along)


def test_hessian_products(pair) -> None:
    layer, _, x = pair
    weight = layer.weight.detach()
    tangent = torch.randn_like(weight)

    def loss(weight):
        return functional_call(layer, {"weight": weight}, (x,)).tanh().sum()

    forward_over_reverse = jvp(grad(loss), (weight,), (tangent,))[1]
    twice_reverse = grad(lambda w: (grad(loss)(w) * tangent).sum())(weight)
    assert relative_error(forward_over_reverse, twice_reverse) < ORACLE_RTOL


def test_gradcheck(pair) -> None:
    layer, _, x = pair
    leaf = x[:2].clone().requires_grad_()
    bias = layer.bias

    def call(x, *bias):
        named = {"bias": bias[0]} if bias else {}
        return functional_call(layer, named, (x,)).tanh()

    inputs = (leaf,) if bias is None else (leaf, bias)
    # From first to second order: the weight is no input here.
    check = {"fast_mode": True}  # along random directions, not entry by entry
    assert torch.autograd.gradcheck(call, inputs, check_forward_ad=True, **check)
    assert torch.autograd.gradgradcheck(call, inputs, **check)
