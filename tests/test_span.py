"""What lies outside the span of fewer rows than entries: dropped, or exact.

1. The gradient of the input asked for beside the weight's changes nothing, at any scale
   of the input, λ and dtype (`test_an_input_that_needs_a_gradient`).
2. Neither do the ways of training that ask for it (`test_first_order_ways`).
3. Differentiated twice, the whole operator counts: the oracle's inverse times the
   ordinary gradient, of the weight (`test_second_order`) and through the weight's
   gradient to the input (`test_a_loss_of_the_gradient`).
4. An input that is kept does not collect hooks (`test_a_kept_input_keeps_no_hooks`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import trainact
from tests.parity.table import FEW, LAYERS, preconditioned

from .cases import oracle_gradient, oracle_rows
from .tolerances import ORACLE_RTOL, relative_error, solve_rtol, span_rtol

PATCHES = {"in_channels": 3, "out_channels": 4, "kernel_size": 4, "stride": 4}


def pixels(*shape: int, scale: float = 255.0, seed: int = 0) -> Tensor:
    """Images with a mean of their own, as far from standardised as ``scale`` says."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.rand((shape[0],) + (1,) * (len(shape) - 1), generator=generator)
    noise = torch.randn(shape, generator=generator)
    return scale * (means + 0.1 * noise).double()


def layers(kind: str, dtype: torch.dtype, lam: float) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    plain = nn.Linear(48, 4) if kind == "linear" else nn.Conv2d(**PATCHES)
    plain = plain.to(dtype)
    return plain, trainact.TrAct(copy.deepcopy(plain), lam)


def inputs(kind: str, num_rows: int, scale: float) -> Tensor:
    shape = (num_rows, 48) if kind == "linear" else (num_rows, 3, 4, 4)
    return pixels(*shape, scale=scale)


def gradient(layer: nn.Module, x: Tensor, bf16: bool = False) -> tuple[Tensor, Tensor]:
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
        z = layer(x)
    generator = torch.Generator().manual_seed(1)
    grad_z = torch.randn(z.shape, generator=generator).to(z.dtype)
    z.backward(grad_z)
    return layer.weight.grad.clone(), grad_z


@given(
    kind=st.sampled_from(["linear", "conv"]),
    num_rows=st.sampled_from([1, 6, 40, 48, 200]),
    lam=st.sampled_from([1e-3, 0.1, 10.0]),
    scale=st.sampled_from([0.1, 1.0, 255.0, 1e4]),
    work=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)
@settings(max_examples=60)
@pytest.mark.filterwarnings("ignore::trainact.DampingWarning")
def test_an_input_that_needs_a_gradient(
    kind: str, num_rows: int, lam: float, scale: float, work: torch.dtype
) -> None:
    dtype = torch.float32 if work == torch.bfloat16 else work
    plain, treated = layers(kind, dtype, lam)
    x = inputs(kind, num_rows, scale).to(dtype)
    without, grad_z = gradient(treated, x, work != dtype)
    leaf = x.clone().requires_grad_()
    found, _ = gradient(treated, leaf, work != dtype)
    assert leaf.grad is not None
    assert relative_error(found, without) < ORACLE_RTOL
    truth = oracle_gradient(plain, x, grad_z, lam)
    rows = x.reshape(num_rows, -1).double().numpy()
    bound = span_rtol if num_rows < 48 else solve_rtol
    # The oracle's solution is rounded, too.
    own = max(ORACLE_RTOL, solve_rtol(torch.float64, rows, lam))
    assert relative_error(found, truth) < max(bound(work, rows, lam), own)


def saliency(layer: nn.Module, x: Tensor) -> None:
    leaf = x.clone().requires_grad_()
    layer(leaf).tanh().sum().backward()
    assert leaf.grad is not None


def visual_prompt(layer: nn.Module, x: Tensor) -> None:
    prompt = torch.zeros_like(x[:1], requires_grad=True)
    layer(x + prompt).tanh().sum().backward()


def adversarial(layer: nn.Module, x: Tensor) -> None:
    """The attack ends where it began, so that the truth is the clean batch's."""
    leaf = x.clone().requires_grad_()
    (away,) = torch.autograd.grad(layer(leaf).sum(), leaf)
    layer(leaf + 0 * away.sign()).tanh().sum().backward()


def reentrant(layer: nn.Module, x: Tensor) -> None:
    leaf = x.clone().requires_grad_()
    checkpoint(layer, leaf, use_reentrant=True).tanh().sum().backward()


def compiled(layer: nn.Module, x: Tensor) -> None:
    torch._dynamo.reset()
    call = torch.compile(layer, backend="aot_eager", fullgraph=True)
    call(x.clone().requires_grad_()).tanh().sum().backward()


def func_of_both(layer: nn.Module, x: Tensor) -> None:
    def loss(weight: Tensor, x: Tensor) -> Tensor:
        named = {"weight": weight}
        return torch.func.functional_call(layer, named, (x,)).tanh().sum()

    both = torch.func.grad(loss, argnums=(0, 1))
    layer.weight.grad = both(layer.weight.detach(), x)[0]


def recorded(layer: nn.Module, x: Tensor) -> None:
    leaf = x.clone().requires_grad_()
    loss = layer(leaf).tanh().sum()
    grads = torch.autograd.grad(loss, (layer.weight, leaf), create_graph=True)
    layer.weight.grad = grads[0].detach()


def accumulated(layer: nn.Module, x: Tensor) -> None:
    if not isinstance(layer, trainact.TrActLayer):
        return saliency(layer, x)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    with trainact.deferred(layer, optimizer) as step:
        for part in x.split(2):
            saliency(layer, part)
        step.precondition()
    return None


FIRST_ORDER = [
    saliency,
    visual_prompt,
    adversarial,
    reentrant,
    compiled,
    func_of_both,
    recorded,
    accumulated,
]


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("way", FIRST_ORDER)
def test_first_order_ways(way: Callable[[nn.Module, Tensor], None], kind: str) -> None:
    plain, treated = layers(kind, torch.float32, 0.1)
    x = inputs(kind, 6, 255.0)
    way(treated, x.float())
    plain.double()
    way(plain, x.float().double())
    truth = preconditioned(plain, x.float(), plain.weight.grad, project=False)
    rows = x.float().double().flatten(1).numpy()
    error = relative_error(treated.weight.grad, truth)
    assert error < span_rtol(torch.float32, rows, 0.1)


def penalty(layer: nn.Module, x: Tensor) -> Tensor:
    """Of the input's gradient, beside an ordinary loss."""
    leaf = x.clone().requires_grad_()
    loss = layer(leaf).tanh().sum()
    (grad_x,) = torch.autograd.grad(loss, leaf, create_graph=True)
    (loss + grad_x.square().sum()).backward()
    return layer.weight.grad


def penalty_of_image(layer: nn.Module, x: Tensor) -> Tensor:
    """Of the gradient of what the layer's input is made from."""
    image = x.clone().requires_grad_()
    loss = layer(image + 0).tanh().sum()
    (grad_x,) = torch.autograd.grad(loss, image, create_graph=True)
    grad_x.norm().backward()
    return layer.weight.grad


def curvature(layer: nn.Module, x: Tensor) -> Tensor:
    """Three derivatives: the weight's gradient is differentiated on the way."""
    leaf = x.clone().requires_grad_()
    loss = layer(leaf).tanh().sum()
    (grad_x,) = torch.autograd.grad(loss, leaf, create_graph=True)
    (again,) = torch.autograd.grad(grad_x.square().sum(), leaf, create_graph=True)
    return torch.autograd.grad(again.square().sum(), layer.weight)[0]


def func_penalty(layer: nn.Module, x: Tensor) -> Tensor:
    """Plain autograd around a transform."""
    torch.func.grad(lambda x: layer(x).tanh().sum())(x).square().sum().backward()
    return layer.weight.grad


def func_of_arguments(layer: nn.Module, x: Tensor) -> Tensor:
    named = {name: p.detach().clone() for name, p in layer.named_parameters()}
    named["weight"].requires_grad_()

    def loss(named: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(layer, named, (x,)).tanh().sum()

    torch.func.grad(loss, argnums=1)(named, x).square().sum().backward()
    return named["weight"].grad


def nested_func(layer: nn.Module, x: Tensor) -> Tensor:
    def loss(weight: Tensor, x: Tensor) -> Tensor:
        named = {"weight": weight}
        return torch.func.functional_call(layer, named, (x,)).tanh().sum()

    def of_weight(weight: Tensor) -> Tensor:
        return torch.func.grad(loss, argnums=1)(weight, x).square().sum()

    return torch.func.grad(of_weight)(layer.weight.detach())


SECOND_ORDER = [
    penalty,
    penalty_of_image,
    curvature,
    func_penalty,
    func_of_arguments,
    nested_func,
]
DUAL = ("linear, dual", "conv2d, dual")


def check_second_order(
    name: str, dtype: torch.dtype, way: Callable[..., Tensor], call: Any
) -> None:
    case = LAYERS[name]
    plain, x = case.layer(dtype), 3 * case.input(dtype)
    found = call(trainact.TrAct(copy.deepcopy(plain)), x)
    ordinary = way(plain.double(), x.double())
    truth = preconditioned(plain, x, ordinary, project=False)
    if name in DUAL:  # what lies outside does matter
        assert relative_error(preconditioned(plain, x, ordinary), truth) > 0.5
    bound = max(solve_rtol(dtype, rows, 0.1) for rows in oracle_rows(plain, x))
    assert relative_error(found, truth) < bound


@pytest.mark.parametrize("way", SECOND_ORDER)
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, torch.float64) for name in FEW] + [(name, torch.float32) for name in DUAL],
)
def test_second_order(
    way: Callable[[nn.Module, Tensor], Tensor], name: str, dtype: torch.dtype
) -> None:
    check_second_order(name, dtype, way, way)


@pytest.mark.parametrize("way", [func_penalty, func_of_arguments, nested_func])
def test_second_order_compiled(way: Callable[[nn.Module, Tensor], Tensor]) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(way, backend="aot_eager")
    check_second_order("conv2d, dual", torch.float32, way, compiled)


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_loss_of_the_gradient(kind: str, dtype: torch.dtype) -> None:
    """Gradients matched by images, as dataset distillation does."""
    plain, treated = layers(kind, dtype, 0.1)
    x = inputs(kind, 6, 3.0).to(dtype)
    leaf = x.clone().requires_grad_()
    loss = treated(leaf).tanh().sum()
    (grad,) = torch.autograd.grad(loss, treated.weight, create_graph=True)
    (found,) = torch.autograd.grad(grad.square().sum(), leaf)
    wide = x.double().clone().requires_grad_()
    loss = plain.double()(wide).tanh().sum()
    (ordinary,) = torch.autograd.grad(loss, plain.weight, create_graph=True)
    rows = x.detach().flatten(1).double()
    inverse = torch.linalg.inv(rows.T @ rows / 6 + 0.1 * torch.eye(48).double())
    matched = (ordinary.flatten(1) @ inverse).square().sum()
    (truth,) = torch.autograd.grad(matched, wide)
    assert relative_error(found, truth) < solve_rtol(dtype, rows.numpy(), 0.1)


def test_a_kept_input_keeps_no_hooks() -> None:
    _, treated = layers("linear", torch.float32, 0.1)
    leaf = inputs("linear", 6, 1.0).float().requires_grad_()
    for _ in range(3):
        treated(leaf).sum().backward()
    assert not leaf._backward_hooks


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("estimate", [None, trainact.Estimate()])
def test_functions_and_exact_estimates(bf16: bool, estimate: Any) -> None:
    plain, treated = layers("linear", torch.float32, 0.1)
    treated.estimate = estimate
    x = inputs("linear", 6, 255.0).float()
    leaf = x.clone().requires_grad_()
    found, grad_z = gradient(treated, leaf, bf16)
    weight = plain.weight.detach().clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
        z = nn.functional.linear(x, trainact.functional.precondition(weight, x))
    z.backward(grad_z)
    truth = oracle_gradient(plain, x, grad_z, 0.1)
    work = torch.bfloat16 if bf16 else torch.float32
    bound = span_rtol(work, x.double().numpy(), 0.1)
    for one in (found, weight.grad):
        assert relative_error(one, truth) < bound


def test_rows_that_nearly_depend_in_float64() -> None:
    plain, treated = layers("linear", torch.float64, 0.1)
    x = inputs("linear", 6, 255.0)
    x[3] = x[1] + 1e-5 * torch.randn(48)  # a basis from one Cholesky factor: 0.3 % off
    x[5] = x[4]
    found, grad_z = gradient(treated, x)
    truth = oracle_gradient(plain, x, grad_z, 0.1)
    assert relative_error(found, truth) < solve_rtol(torch.float64, x.numpy(), 0.1)
