"""torch.compile: no graph breaks, few graphs, and what eager code computes.

The gradients are in the table of ways; here is what only compiled code can get wrong.
"""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint

import trainact
from tests.odd import ODD, raw_weight
from tests.parity.table import CASES, FEW, FEW_ODD, LAYERS, gradient_like
from tests.tolerances import FLOAT32_PROMISE, relative_error
from trainact.geometry import layer_geometry
from trainact.statistics import operators

needs_torch_29 = pytest.mark.skipif(
    torch.__version__ < "2.9", reason="a plain weight norm fails in torch 2.8, too"
)


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def graphs(layer: nn.Module, batches: list[torch.Tensor]) -> list[int]:
    """How many graphs there are after each of the batches, in training."""
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    numbers = []
    for x in batches:
        compiled(x).square().sum().backward()
        numbers.append(counters["stats"]["unique_graphs"])
    return numbers


@pytest.mark.parametrize("name", FEW + FEW_ODD)
def test_one_graph_for_a_shape_and_few_for_many_batch_sizes(name: str) -> None:
    case = CASES[name]
    plain = case.layer(torch.float32)
    sizes = (*3 * case.shape[:1], 16, 7, 9, 33)
    batches = [torch.randn(size, *case.shape[1:]) for size in sizes]
    numbers = graphs(trainact.TrAct(copy.deepcopy(plain)), batches)
    assert numbers[2] == 1
    # A layer whose batches change between the two forms needs a graph for each.
    assert numbers[-1] <= graphs(plain, batches)[-1] + 1


def test_the_dual_form_has_one_graph_for_any_batch_size() -> None:
    layer = trainact.TrAct(nn.Conv2d(3, 4, 8, stride=8))
    sizes = [8, *range(9, 30)]
    assert graphs(layer, [torch.randn(n, 3, 16, 16) for n in sizes])[-1] == 2


@pytest.mark.parametrize("name", ["linear", "conv2d, dual"])
def test_another_lam_is_one_more_graph(name: str) -> None:
    layer = trainact.TrAct(LAYERS[name].layer(torch.float32))
    x = LAYERS[name].input(torch.float32)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    counters.clear()
    for number, lam in enumerate((0.1, 0.3), start=1):
        layer.lam = lam
        gradients = []
        for module in (compiled, layer, compiled):
            layer.zero_grad()
            module(x).square().sum().backward()
            gradients.append(layer.weight.grad.clone())
        assert counters["stats"]["unique_graphs"] == number
        assert relative_error(gradients[0], gradients[1]) < FLOAT32_PROMISE
        assert torch.equal(gradients[0], gradients[2])


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_operators_are_what_they_say(name: str, dtype) -> None:
    case = LAYERS[name]
    x = case.input(dtype)
    geometry = layer_geometry(case.layer(dtype))
    settings = operators._flatten(geometry)
    torch.library.opcheck(torch.ops.trainact.sum_products.default, (x, *settings))
    if geometry.num_rows(x.shape) < geometry.num_entries:
        torch.library.opcheck(
            torch.ops.trainact.dual_factor.default, (x, *settings, 0.1, True)
        )


@pytest.mark.parametrize("name", FEW_ODD)
def test_a_checkpoint_of_an_odd_layer_may_break_the_graph(name: str) -> None:
    case = ODD[name]
    plain = case.layer(torch.float32)
    layer, x = trainact.TrAct(copy.deepcopy(plain)), case.input(torch.float32)
    z = torch.compile(
        partial(checkpoint, layer, use_reentrant=False), backend="aot_eager"
    )(x)
    z.backward(gradient_like(z))
    for key, truth in case.gradients(plain, x, gradient_like(z)).items():
        gradient = layer.get_parameter(key).grad
        assert relative_error(gradient, truth) < FLOAT32_PROMISE


class Breaking(nn.Linear):
    """Breaks the graph on both sides of its linear map."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight - self.weight.mean(1, keepdim=True)
        torch._dynamo.graph_break()
        z = nn.functional.linear(x, weight, self.bias)
        torch._dynamo.graph_break()
        return 2 * z


# Dynamo looks at the .grad of whatever a graph starts with.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_a_graph_that_breaks_inside_a_layer_is_right() -> None:
    layer, x = trainact.TrAct(Breaking(5, 3)), torch.randn(20, 5)
    gradients = []
    for call in (layer, torch.compile(layer, backend="aot_eager")):
        layer.zero_grad()
        z = call(x)
        z.backward(gradient_like(z))
        gradients.append(layer.weight.grad.clone())
    assert relative_error(gradients[1], gradients[0]) < FLOAT32_PROMISE


def gradients_of(layer: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in layer.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        *((name, "default") for name in ("linear, dual", "std conv")),
        pytest.param("weight norm", "default", marks=needs_torch_29),
        # Without a GPU there are no CUDA graphs, and the modes differ in little.
        ("conv2d, groups", "reduce-overhead"),
    ],
)
def test_inductor(name: str, mode: str) -> None:
    case = CASES[name]
    plain = nn.Sequential(case.layer(torch.float32), nn.ReLU(), nn.Flatten())
    treated = trainact.apply(copy.deepcopy(plain))
    x = case.input(torch.float32)
    outputs, gradients = [], []
    for model, is_compiled in ((plain, True), (treated, True), (treated, False)):
        model.zero_grad()
        call = torch.compile(model, mode=mode, fullgraph=True) if is_compiled else model
        z = call(x)
        z.backward(gradient_like(z))
        outputs.append(z.detach().clone())
        gradients.append(raw_weight(gradients_of(model[0])))
    # Inductor may choose another kernel for the layer itself: compare like with like.
    assert torch.equal(outputs[1], outputs[0])
    assert relative_error(gradients[1], gradients[2]) < FLOAT32_PROMISE


@pytest.mark.slow
def test_inductor_trains_a_model_of_growing_batches() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    models = [trainact.apply(copy.deepcopy(model)) for _ in range(2)]
    for model, is_compiled in zip(models, (False, True), strict=True):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def loss(x, model=model):
            return model(x).square().mean()

        step = (
            torch.compile(loss, fullgraph=True, dynamic=True) if is_compiled else loss
        )
        generator = torch.Generator().manual_seed(0)
        for size in (4, 4, 6, 9):
            optimizer.zero_grad()
            step(torch.randn(size, 3, 6, 6, generator=generator)).backward()
            optimizer.step()
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert relative_error(q, p) < FLOAT32_PROMISE
