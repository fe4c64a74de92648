"""What only an accelerator can show. Each test says why it was skipped without one.

- Neither pass waits for the device (`test_no_synchronisation`), also with an estimate,
  which no graph can hold (`test_estimates_do_not_wait_and_are_not_captured`).
- A whole step can be captured and replayed as a CUDA graph, by hand, by
  `make_graphed_callables` and by torch.compile (`test_whole_step_is_captured`,
  `test_make_graphed_callables`, `test_compile`).
- The gradient is the oracle's under autocast with a GradScaler, in channels_last, and
  whatever TF32 is allowed to do elsewhere (`test_autocast_with_grad_scaler`,
  `test_channels_last`, `test_tf32_does_not_reach_the_statistics`).
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import trainact
from tests.cases import oracle_gradient
from tests.parity.table import LAYERS, gradient_like
from tests.tolerances import (
    FLOAT32_PROMISE,
    GRAM_EPS,
    low_precision_rtol,
    relative_error,
)
from trainact.geometry import layer_geometry
from trainact.gram.route import compute_gram

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

# Larger than the table's, as a kernel for small sizes may not use tensor cores.
LARGE = {
    "linear": (lambda: nn.Linear(256, 128), (4096, 256)),
    "linear, dual": (lambda: nn.Linear(2048, 128), (256, 2048)),
    "conv2d": (lambda: nn.Conv2d(3, 64, 7, stride=2, padding=3), (32, 3, 64, 64)),
    "patches": (lambda: nn.Conv2d(3, 192, 16, stride=16), (8, 3, 128, 128)),
}


@pytest.fixture(autouse=True)
def plain_layers_in_full_precision():
    # cuBLAS and some convolutions have no deterministic kernel, and would say so.
    torch.use_deterministic_algorithms(False)
    # By default a convolution's own products are rounded to TF32.
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(params=LAYERS)
def pair(request) -> tuple[nn.Module, Tensor]:
    case = LAYERS[request.param]
    layer = trainact.TrAct(case.layer(torch.float32)).cuda()
    return layer, case.input(torch.float32).cuda()


@pytest.fixture(params=LARGE)
def large(request) -> tuple[nn.Module, Tensor]:
    build, shape = LARGE[request.param]
    return trainact.TrAct(build()).cuda(), torch.randn(shape).cuda()


def error(layer: nn.Module, x: Tensor, grad_z: Tensor) -> float:
    """Of the layer's gradient, to the oracle."""
    truth = oracle_gradient(layer.cpu(), x.cpu(), grad_z.cpu(), layer.lam)
    return relative_error(layer.weight.grad.cpu(), truth)


def on_device(z: Tensor) -> Tensor:
    return gradient_like(z.detach().cpu()).to(z.device)


def warm_up(step) -> None:
    """Run a step on a side stream, as a capture asks for."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)


def test_float32(pair) -> None:
    layer, x = pair
    z = layer(x)
    grad_z = on_device(z)
    z.backward(grad_z)
    assert error(layer, x, grad_z) < FLOAT32_PROMISE


def test_no_synchronisation(pair) -> None:
    layer, x = pair
    grad_z = on_device(layer(x))
    layer(x).backward(grad_z)  # libraries load and allocate on the first call
    torch.cuda.set_sync_debug_mode("error")
    try:
        layer(x).backward(grad_z)
        layer(x.detach().requires_grad_()).backward(grad_z)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_estimates_do_not_wait_and_are_not_captured(pair) -> None:
    layer, x = pair
    layer.estimate = trainact.Estimate(2, 0.5, 0.5)
    grad_z = on_device(layer(x))
    for _ in range(2):  # libraries load and allocate on the first calls
        layer(x).backward(grad_z)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            layer(x).backward(grad_z)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    refused = pytest.raises(RuntimeError, match="inside a CUDA graph")
    with refused, torch.cuda.graph(torch.cuda.CUDAGraph()):
        layer(x + 1)


def test_whole_step_is_captured(pair) -> None:
    layer, x = pair
    twin = copy.deepcopy(layer)
    optimizers = [
        torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9) for m in (layer, twin)
    ]
    start = copy.deepcopy(layer.state_dict())
    static = x.clone()
    batches = [x, 2 * x, x + 1]

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        model(x).square().mean().backward()
        optimizer.step()

    warm_up(lambda: step(layer, optimizers[0], static))
    graph = torch.cuda.CUDAGraph()
    optimizers[0].zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        step(layer, optimizers[0], static)
    layer.load_state_dict(start)
    for state in optimizers[0].state.values():
        state["momentum_buffer"].zero_()
    for batch in batches:
        static.copy_(batch)
        graph.replay()
        step(twin, optimizers[1], batch)
    assert relative_error(layer.weight.cpu(), twin.weight.cpu()) < FLOAT32_PROMISE


def test_make_graphed_callables(pair) -> None:
    layer, x = pair
    plain = copy.deepcopy(layer)
    graphed = torch.cuda.make_graphed_callables(layer, (torch.randn_like(x),))
    for batch in (x, 3 * x):
        gradients = []
        for module in (graphed, plain):
            module.zero_grad(set_to_none=True)
            z = module(batch)
            z.backward(on_device(z))
            gradients.append(module.weight.grad.cpu().clone())
        assert relative_error(*gradients) < FLOAT32_PROMISE


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compile(pair, mode: str) -> None:
    layer, x = pair
    torch._dynamo.reset()
    compiled = torch.compile(layer, mode=mode, fullgraph=True)
    for batch in (x, 2 * x, x + 1):  # recorded at the second call, replayed after it
        torch.compiler.cudagraph_mark_step_begin()
        layer.zero_grad(set_to_none=True)
        z = compiled(batch)
        z.backward(on_device(z))
        gradient = layer.weight.grad.cpu().clone()
        layer.zero_grad(set_to_none=True)
        z = layer(batch)
        z.backward(on_device(z))
        assert relative_error(gradient, layer.weight.grad.cpu()) < FLOAT32_PROMISE


def test_autocast_with_grad_scaler(pair) -> None:
    layer, x = pair
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**8)
    with torch.autocast("cuda", dtype=torch.float16):
        z = layer(x)
    grad_z = on_device(z)
    scaler.scale((z.float() * grad_z.float()).sum()).backward()
    scaler.unscale_(optimizer)
    assert error(layer, x, grad_z) < low_precision_rtol(torch.float16)


def test_a_skipped_step_leaves_nothing_behind(pair) -> None:
    layer, x = pair
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**8)
    before = layer.weight.detach().clone()
    bad = x.clone()
    bad.view(-1)[0] = float("inf")
    with torch.autocast("cuda", dtype=torch.float16):
        z = layer(bad)
    scaler.scale(z.float().square().mean()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(layer.weight, before)
    optimizer.zero_grad()
    z = layer(x)
    grad_z = on_device(z)
    z.backward(grad_z)
    assert error(layer, x, grad_z) < FLOAT32_PROMISE


def test_channels_last(pair) -> None:
    layer, x = pair
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if x.ndim not in formats:
        pytest.skip("channels_last is for images and volumes")
    layer = layer.to(memory_format=formats[x.ndim])
    x = x.to(memory_format=formats[x.ndim])
    z = layer(x)
    grad_z = on_device(z)
    z.backward(grad_z)
    assert error(layer, x, grad_z) < FLOAT32_PROMISE


@pytest.fixture(params=["high", "medium"])
def tf32_allowed(request):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("tf32_allowed")
def test_tf32_does_not_reach_the_statistics(large) -> None:
    layer, x = large
    geometry = layer_geometry(layer)
    products = compute_gram(x, geometry).cpu()
    truth = compute_gram(x.cpu().double(), geometry)
    bound = GRAM_EPS * torch.finfo(torch.float32).eps
    assert relative_error(products, truth) < bound


@pytest.mark.usefixtures("tf32_allowed")
def test_tf32_does_not_reach_the_preconditioning(large) -> None:
    # The layer's own products may be rounded, as was asked for: only what TrAct adds
    # is compared, on one and the same gradient.
    layer, x = large
    num_rows = 256 if x.ndim == 2 and x.shape[1] > len(x) else 4096
    weight = layer.weight.detach().flatten(1).requires_grad_()
    gradient = torch.randn_like(weight)
    rows_NP = torch.randn(num_rows, weight.shape[1], device=weight.device)
    trainact.functional.precondition(weight, rows_NP).backward(gradient)
    wide = weight.detach().cpu().double().requires_grad_()
    wide_NP = rows_NP.cpu().double()
    trainact.functional.precondition(wide, wide_NP).backward(gradient.cpu().double())
    assert relative_error(weight.grad.cpu(), wide.grad) < FLOAT32_PROMISE
