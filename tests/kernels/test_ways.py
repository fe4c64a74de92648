"""The kernels inside training: every way in which the layers are used.

Claims: with the kernels chosen, the layers' gradients are the oracle's, eager, under
torch.compile, vmap and deferred; fake tensors and AOTAutograd see operators.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.func import functional_call, grad, vmap

import trainact
from tests.cases import backward, oracle_gradient
from tests.tolerances import (
    FLOAT32_PROMISE,
    low_precision_rtol,
    relative_error,
)
from trainact.kernels import choice
from trainact.kernels.operators import damped_inverse

from .conftest import needs_interpreter, needs_triton

pytestmark = [needs_triton, needs_interpreter]

LAYERS = {
    "linear": (lambda: nn.Linear(20, 4), (6, 10, 20)),
    "conv": (lambda: nn.Conv2d(3, 4, 3, padding=1), (2, 3, 7, 6)),
    "unbatched": (lambda: nn.Conv2d(2, 4, 3), (2, 9, 8)),
    "groups": (lambda: nn.Conv1d(4, 4, 5, stride=2, groups=2), (3, 4, 31)),
    "volume": (lambda: nn.Conv3d(1, 2, 2, stride=2, padding="valid"), (2, 1, 6, 6, 6)),
}


@pytest.fixture(autouse=True)
def kernels():
    with trainact.kernels.use("triton"):
        yield


@pytest.fixture(params=LAYERS)
def pair(request) -> tuple[nn.Module, Tensor]:
    build, shape = LAYERS[request.param]
    return trainact.TrAct(build()), torch.randn(shape) + 0.3


def test_gradients_are_the_oracles(pair) -> None:
    layer, x = pair
    _, grad_z = backward(layer, x)
    truth = oracle_gradient(layer, x, grad_z, layer.lam)
    assert relative_error(layer.weight.grad, truth) < FLOAT32_PROMISE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(pair, dtype: torch.dtype) -> None:
    layer, x = pair
    layer, x = layer.to(dtype), x.to(dtype)
    _, grad_z = backward(layer, x)
    truth = oracle_gradient(layer, x, grad_z, layer.lam)
    assert relative_error(layer.weight.grad, truth) < 4 * low_precision_rtol(dtype)


def test_compiled(pair) -> None:
    layer, x = pair
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for batch in (x, 2 * x):
        layer.zero_grad()
        _, grad_z = backward(compiled, batch)
        truth = oracle_gradient(layer, batch, grad_z, layer.lam)
        assert relative_error(layer.weight.grad, truth) < FLOAT32_PROMISE


def test_both_operators_are_in_the_graph() -> None:
    seen: set[str] = set()

    def look(graph, inputs):
        del inputs
        seen.update(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    torch._dynamo.reset()
    build, shape = LAYERS["conv"]
    torch.compile(trainact.TrAct(build()), backend=look)(torch.randn(shape))
    assert {"trainact.sum_products.default", "trainact.damped_inverse.default"} <= seen


def test_a_new_choice_compiles_again() -> None:
    torch._dynamo.reset()
    build, shape = LAYERS["linear"]
    layer, x = trainact.TrAct(build()), torch.randn(shape)
    graphs: list[str] = []

    def look(graph, inputs):
        del inputs
        graphs.append(str(graph.graph))
        return graph.forward

    compiled = torch.compile(layer, backend=look)
    compiled(x)
    with trainact.kernels.use("library"):
        compiled(x)
    with_kernel, without = graphs
    assert "trainact.damped_inverse" in with_kernel
    assert "trainact.damped_inverse" not in without


def test_fake_tensors_have_the_right_shapes(pair) -> None:
    layer, x = pair
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        z = layer(mode.from_tensor(x))
        (fake,) = torch.autograd.grad(z.sum(), layer.weight)
    assert isinstance(fake, FakeTensor)
    assert (fake.shape, fake.dtype) == (layer.weight.shape, layer.weight.dtype)


def test_gradients_of_samples() -> None:
    build, _ = LAYERS["conv"]
    layer = trainact.TrAct(build())
    x = torch.randn(3, 3, 7, 6)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        return functional_call(layer, parameters, (sample,)).square().sum() / 2

    batched = vmap(grad(loss), in_dims=(None, 0))(parameters, x)["weight"]
    for gradient, sample in zip(batched, x, strict=True):
        truth = oracle_gradient(layer, sample, layer(sample), layer.lam)
        assert relative_error(gradient, truth) < FLOAT32_PROMISE


def test_deferred() -> None:
    build, shape = LAYERS["conv"]
    layer = trainact.TrAct(build())
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    x = torch.randn(4, *shape[1:])
    z = layer(x).detach()
    truth = oracle_gradient(layer, x, z, layer.lam)
    with trainact.deferred(layer, optimizer):
        for part in x.split(2):
            (layer(part).square().sum() / 2).backward()
    assert relative_error(layer.weight.grad, truth) < FLOAT32_PROMISE


def test_patch_gram_uses_the_kernel(monkeypatch) -> None:
    from trainact.kernels import gram

    calls = []
    inner = gram.patch_products
    monkeypatch.setattr(gram, "patch_products", lambda *a: calls.append(a) or inner(*a))
    x = torch.randn(2, 3, 8, 8)
    found = trainact.functional.patch_gram(x, 3)
    assert len(calls) == 1
    with trainact.kernels.use("library"):
        expected = trainact.functional.patch_gram(x, 3)
    assert len(calls) == 1
    assert relative_error(found, expected) < FLOAT32_PROMISE


def test_limits_are_loud_in_training(monkeypatch) -> None:
    monkeypatch.setattr(choice, "MAX_INVERSE_ENTRIES", 16)  # a wide one takes long
    wide = trainact.TrAct(nn.Linear(17, 2))
    x = torch.randn(20, wide.in_features)
    with pytest.raises(RuntimeError, match=r"use\(products='triton', inverse='auto'\)"):
        wide(x)
    with trainact.kernels.use(products="triton", inverse="auto"):
        _, grad_z = backward(wide, x)
    truth = oracle_gradient(wide, x, grad_z, wide.lam)
    assert relative_error(wide.weight.grad, truth) < FLOAT32_PROMISE


def test_operator_of_the_inverse() -> None:
    gram = torch.randn(2, 5, 9, dtype=torch.float64)
    arguments = (gram @ gram.mT, 9, 0.1, torch.float32)
    torch.library.opcheck(torch.ops.trainact.damped_inverse.default, arguments)
    batched = torch.stack([arguments[0], 2 * arguments[0]], dim=1)
    together = vmap(lambda g: damped_inverse(g, *arguments[1:]), in_dims=1)(batched)
    for index, found in enumerate(together):
        alone = damped_inverse(batched[:, index], *arguments[1:])
        assert torch.equal(found, alone)
