"""Statistics beside the forward pass, and shifts, on a real device.

Claims: the gradient is that of one stream, also when the memory of the input and of the
statistics is handed out again at once; nothing waits for the device; a captured graph
stays on one stream; shifts give what tiles give, whatever TF32 is allowed to do.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import trainact
from tests.tolerances import (
    FLOAT32_PROMISE,
    GRAM_EPS,
    low_precision_rtol,
    relative_error,
)
from trainact.geometry import make_geometry
from trainact.gram.shifted import shifted_gram
from trainact.gram.tiled import tiled_gram

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture
def twins() -> tuple[nn.Module, nn.Module]:
    """The same model with statistics on one stream, and on two."""
    model = nn.Sequential(
        nn.Conv2d(3, 64, 7, stride=2, padding=3), nn.ReLU(), nn.Conv2d(64, 64, 3)
    )
    plain = trainact.apply(model.cuda())
    beside = copy.deepcopy(plain)
    trainact.tract_layers(beside)["0"].overlap = True
    return plain, beside


def spoil_freed_memory() -> None:
    """Fill what the allocator hands out next with NaN."""
    for size in (3 * 64 * 96 * 96, 147 * 147, 2 * 147 * 147, 64 * 147, 10**6):
        for _ in range(4):
            torch.full((size,), float("nan"), device="cuda")


def test_memory_that_crosses_streams(twins) -> None:
    plain, beside = twins
    for step in range(20):
        torch.manual_seed(step)
        for model in (plain, beside):
            model.zero_grad(set_to_none=True)
            generator = torch.Generator("cuda").manual_seed(step)
            x = torch.randn(64, 3, 96, 96, device="cuda", generator=generator)
            # The layer keeps its own copy in bfloat16: nobody else holds this input.
            with torch.autocast("cuda", dtype=torch.bfloat16):
                z = model(x * 1.5)
            del x
            spoil_freed_memory()
            z.float().square().mean().backward()
            spoil_freed_memory()
        gradients = [model[0].weight.grad.cpu() for model in twins]
        assert relative_error(*gradients) < low_precision_rtol(torch.bfloat16)


def test_no_synchronisation(twins) -> None:
    _, model = twins
    x = torch.randn(16, 3, 64, 64, device="cuda")
    for _ in range(2):
        model(x).square().mean().backward()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(x).square().mean().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_captured_forward_and_backward(twins) -> None:
    plain, model = twins
    x = torch.randn(16, 3, 64, 64, device="cuda")
    graphed = torch.cuda.make_graphed_callables(model, (torch.randn_like(x),))
    gradients = []
    for one in (graphed, plain):
        one.zero_grad(set_to_none=True)
        one(x).square().mean().backward()
        gradients.append(one[0].weight.grad.cpu().clone())
    assert relative_error(*gradients) < FLOAT32_PROMISE


@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [0, 1])
def test_shifts(dim: int, dtype: torch.dtype, precision: str) -> None:
    geometry = make_geometry(3, 7, 2, 3, 1, 1, "zeros", num_spatial=2)
    x = (torch.randn(16, 3, 96, 96) + 0.5).to(dtype)
    truth = tiled_gram(x.double(), geometry)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        value = shifted_gram(x.cuda(), geometry, dim).cpu()
    finally:
        torch.set_float32_matmul_precision(before)
    assert relative_error(value, truth) < GRAM_EPS * torch.finfo(torch.float32).eps
