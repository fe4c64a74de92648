"""The kernels on a real device, at the sizes of the paper's networks.

Claims: products and inverses are float64's, whatever dtype and layout the input has and
whatever TF32 is allowed to do; two runs agree to the bit; nothing waits for the device;
a step can be captured and replayed as a CUDA graph.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import trainact
from tests.tolerances import (
    FLOAT32_PROMISE,
    GRAM_EPS,
    ORACLE_RTOL,
    SAFETY,
    relative_error,
)
from trainact.damping import Damping
from trainact.factor import factorise
from trainact.geometry import layer_geometry
from trainact.gram.route import compute_gram

from .conftest import needs_triton

pytestmark = [
    needs_triton,
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "3x3/1, 32": (lambda: nn.Conv2d(3, 64, 3, padding=1), (128, 3, 32, 32)),
    "4x4/4, 32": (lambda: nn.Conv2d(3, 192, 4, stride=4), (128, 3, 32, 32)),
    "7x7/2, 224": (lambda: nn.Conv2d(3, 64, 7, stride=2, padding=3), (32, 3, 224, 224)),
    "16x16/16, 224": (lambda: nn.Conv2d(3, 384, 16, stride=16), (64, 3, 224, 224)),
    "3x3/1, 600x800": (lambda: nn.Conv2d(3, 64, 3, padding=1), (1, 3, 600, 800)),
    "2x16x16": (lambda: nn.Conv3d(3, 8, (2, 16, 16), (2, 16, 16)), (4, 3, 8, 224, 224)),
    "audio": (lambda: nn.Conv1d(1, 512, 10, stride=5), (8, 1, 160_000)),
    "groups": (lambda: nn.Conv2d(32, 32, 3, padding=2, dilation=2, groups=4),
               (16, 32, 40, 40)),
    "linear": (lambda: nn.Linear(300, 64), (64, 197, 300)),
}  # fmt: skip
SMALL = ("3x3/1, 32", "4x4/4, 32", "audio")


@pytest.fixture(autouse=True)
def float32_may_be_rounded():
    torch.use_deterministic_algorithms(False)
    before = torch.get_float32_matmul_precision()
    convolutions = torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = False  # two runs may take two algorithms
    yield
    torch.set_float32_matmul_precision(before)
    torch.backends.cudnn.allow_tf32 = convolutions


def build(name: str, dtype: torch.dtype = torch.float32):
    make, shape = LAYERS[name]
    layer = make().cuda()
    geometry = layer_geometry(layer)
    x = (torch.randn(shape, device="cuda") + 0.5).to(dtype)
    return trainact.TrAct(layer), geometry, x


def kernel_products(x, geometry, launch=None):
    from trainact.kernels import gram

    return gram.patch_products(x, geometry, launch)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAYERS)
def test_products(name: str, dtype: torch.dtype) -> None:
    _, geometry, x = build(name, dtype)
    result = kernel_products(x, geometry)
    expected = compute_gram(x.double(), geometry)
    bound = GRAM_EPS * torch.finfo(torch.float32).eps
    assert relative_error(result.cpu(), expected.cpu()) < bound
    assert torch.equal(result, result.mT)
    assert torch.equal(result, kernel_products(x, geometry))


@pytest.mark.skipif(torch.version.hip is not None, reason="tf32x3 is NVIDIA's")
@pytest.mark.parametrize("name", LAYERS)
def test_products_on_tensor_cores_are_as_exact(name: str) -> None:
    from trainact.kernels.gram import Launch

    _, geometry, x = build(name)
    result = kernel_products(x, geometry, Launch(32, 32, "tf32x3"))
    expected = compute_gram(x.double(), geometry)
    bound = GRAM_EPS * torch.finfo(torch.float32).eps
    assert relative_error(result.cpu(), expected.cpu()) < bound


@pytest.mark.parametrize("name", ["3x3/1, 32", "7x7/2, 224", "16x16/16, 224"])
def test_channels_last_is_read_in_place(name: str) -> None:
    _, geometry, x = build(name)
    last = x.to(memory_format=torch.channels_last)
    results = (kernel_products(last, geometry), kernel_products(x, geometry))
    bound = GRAM_EPS * torch.finfo(torch.float32).eps
    assert relative_error(*(result.cpu() for result in results)) < bound


@pytest.mark.parametrize("size", [1, 10, 27, 48, 64, 100, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inverse(size: int, dtype: torch.dtype) -> None:
    from trainact.kernels.inverse import damped_inverse

    x = torch.randn(3, 1000, size, device="cuda", dtype=torch.float64) + 0.5
    products = x.mT @ x
    result = damped_inverse(products, 1000, 0.1, dtype)
    expected = factorise(
        products, Damping(0.1), torch.float64, num_rows=1000
    ).inner.cpu()
    bound = ORACLE_RTOL if dtype == torch.float64 else SAFETY * torch.finfo(dtype).eps
    assert relative_error(result.cpu(), expected) < bound
    assert torch.equal(result, result.mT)


def test_fallbacks_of_the_inverse() -> None:
    from trainact.kernels.inverse import damped_inverse

    good = torch.eye(27, dtype=torch.float64, device="cuda")
    indefinite, bad = good.clone(), good.clone()
    indefinite[0, 0], bad[3, 3] = -0.5, float("nan")
    together = torch.stack([good, indefinite, bad])
    result = damped_inverse(together, 1, 0.1, torch.float32).cpu()
    eye = torch.eye(27)
    assert relative_error(result[0], eye / 1.1) < FLOAT32_PROMISE
    assert relative_error(result[1], eye / (25.5 + 0.1)) < FLOAT32_PROMISE
    assert result[2].isnan().all()


def step(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    layer.zero_grad(set_to_none=True)
    layer(x).square().mean().backward()
    return layer.weight.grad


@pytest.mark.parametrize("name", SMALL)
def test_no_synchronisation(name: str) -> None:
    layer, _, x = build(name)
    with trainact.kernels.use("triton"):
        step(layer, x)  # compiles and allocates
        torch.cuda.set_sync_debug_mode("error")
        try:
            step(layer, x)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", SMALL)
def test_a_step_is_captured(name: str) -> None:
    layer, _, x = build(name)
    twin, static = copy.deepcopy(layer), x.clone()
    with trainact.kernels.use("triton"):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step(layer, static)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            gradient = step(layer, static)
        for batch in (x, 2 * x, x + 1):
            static.copy_(batch)
            graph.replay()
            expected = step(twin, batch)
            error = relative_error(gradient.cpu(), expected.cpu())
            assert error < FLOAT32_PROMISE


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("name", SMALL)
def test_compiled(name: str, mode: str) -> None:
    layer, _, x = build(name)
    torch._dynamo.reset()
    compiled = torch.compile(layer, mode=mode, fullgraph=True)
    with trainact.kernels.use("triton"):
        for batch in (x, 2 * x, x + 1):
            torch.compiler.cudagraph_mark_step_begin()
            layer.zero_grad(set_to_none=True)
            compiled(batch).square().mean().backward()
            gradient = layer.weight.grad.cpu()
            with trainact.kernels.use("library"):
                expected = step(layer, batch).cpu()
            assert relative_error(gradient, expected) < FLOAT32_PROMISE
