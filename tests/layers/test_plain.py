"""PyTorch's own layers under TrAct: what their inputs may be, what a call keeps.

That their gradients are the oracle's is in ``parity``.
"""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

import trainact
from tests.cases import KINDS, backward, draw_case, oracle_gradient
from tests.odd import ODD, Centred, Named
from tests.tolerances import FLOAT32_PROMISE, ORACLE_RTOL, relative_error
from trainact.layers.guard import Guard


def test_no_entries_squared_matrix_when_rows_are_few() -> None:
    largest = 0

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.numel())
            return result

    layer = trainact.TrAct(nn.Linear(30_000, 2))
    with Watch():
        layer(torch.randn(8, 30_000)).sum().backward()
    assert largest <= 8 * 30_000 < 30_000**2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("rows", [3, 300])
def test_a_bad_input_spoils_its_step_and_no_other(bad: float, rows: int) -> None:
    layer = trainact.TrAct(nn.Linear(27, 4))
    x = torch.randn(rows, 27)
    x[0, 0] = bad
    backward(layer, x)
    assert not torch.isfinite(layer.weight.grad).all()
    layer.zero_grad()
    backward(layer, torch.randn(rows, 27))
    assert torch.isfinite(layer.weight.grad).all()


def test_each_call_has_its_own_statistics() -> None:
    layer = trainact.TrAct(nn.Conv2d(3, 4, 3, dtype=torch.float64))
    views = [torch.randn(2, 3, 8, 8, dtype=torch.float64) * s for s in (1.0, 3.0)]
    grads = [torch.randn(2, 4, 6, 6, dtype=torch.float64) for _ in views]
    loss = sum((layer(x) * g).sum() for x, g in zip(views, grads, strict=True))
    loss.backward()
    truth = sum(
        oracle_gradient(layer, x, g, 0.1) for x, g in zip(views, grads, strict=True)
    )
    assert relative_error(layer.weight.grad, truth) < ORACLE_RTOL


def test_an_empty_batch_trains_nothing_and_breaks_nothing() -> None:
    for layer, shape in [
        (nn.Linear(6, 3), (0, 6)),
        (nn.Conv2d(3, 4, 3), (0, 3, 8, 8)),
    ]:
        trainact.TrAct(layer)
        layer(torch.zeros(shape)).sum().backward()
        assert torch.equal(layer.weight.grad, torch.zeros_like(layer.weight))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(3, 4, 3), (2, 5, 8, 8)),
        (nn.Conv2d(3, 4, 3), (2, 3, 2, 2)),
        (nn.Conv2d(3, 4, 3), (3, 8)),
        (nn.Linear(6, 3), (2, 5)),
        (nn.Linear(6, 3), ()),
        (Named(3, 4, 3), (3, 4, 7, 6)),
        (Centred(7, 3), (16, 6)),
    ],
)
def test_a_wrong_input_gets_the_layers_own_error(layer, shape) -> None:
    x = torch.randn(shape)
    with pytest.raises(RuntimeError) as plain:
        layer(x)
    with pytest.raises(RuntimeError) as treated:
        trainact.TrAct(layer)(x)
    assert str(treated.value) == str(plain.value)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("layout", [torch.jagged, torch.strided])
def test_sequences_of_different_lengths(layout) -> None:
    layer = trainact.TrAct(nn.Linear(6, 3, dtype=torch.float64))
    parts = [torch.randn(n, 6, dtype=torch.float64) for n in (3, 9)]
    z = layer(torch.nested.nested_tensor(parts, layout=layout))
    grad_z = torch.randn(12, 3, dtype=torch.float64)
    torch.cat(z.unbind()).backward(grad_z)
    truth = oracle_gradient(layer, torch.cat(parts), grad_z, 0.1)
    assert relative_error(layer.weight.grad, truth) < ORACLE_RTOL


def complex_layer(layer: nn.Module) -> nn.Module:
    return layer.to(torch.complex64)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
@pytest.mark.filterwarnings("ignore:Complex modules are a new feature:UserWarning")
@pytest.mark.parametrize(
    ("change", "make_input", "message"),
    [
        (nn.Module.float, torch.Tensor.to_sparse, r"sparse \(torch.sparse_coo\): pass"),
        (nn.Module.float, torch.Tensor.to_sparse_csr, r"sparse \(torch.sparse_csr\)"),
        (complex_layer, lambda x: x * 1j, r"complex \(torch.complex64\)"),
    ],
    ids=["coo", "csr", "complex"],
)
def test_inputs_without_statistics_are_refused(change, make_input, message) -> None:
    layer, x = change(trainact.TrAct(nn.Linear(6, 3))), make_input(torch.eye(6))
    with pytest.raises(RuntimeError, match=message):
        layer(x)
    with torch.no_grad():
        layer(x)
    layer.weight.requires_grad_(False)
    layer(x)


@pytest.mark.parametrize("name", [*KINDS, "centred linear", "std conv"])
def test_shapes_alone(name: str, monkeypatch) -> None:
    monkeypatch.setattr(Guard, "is_any_compiled", False)
    case = ODD.get(name) or draw_case(np.random.default_rng(4), name)
    layer = trainact.TrAct(case.layer(torch.float32).to("meta"))
    x = torch.empty(case.shape, device="meta")
    z = layer(x)
    z.sum().backward()
    assert z.shape == trainact.remove(layer)(x).shape
    assert layer.weight.grad.shape == layer.weight.shape


@pytest.mark.parametrize("way", ["now", "later", "deferred"])
def test_one_output_in_channels_last(way: str) -> None:
    """Dimensions of size one keep their strides on the way to the convolution."""
    layer = trainact.TrAct(nn.Conv2d(3, 1, 2, stride=3))
    layer.to(memory_format=torch.channels_last)
    x = torch.randn(1, 3, 4, 8).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    if way == "later":
        layer.estimate = trainact.Estimate(fraction=0.999)
    with trainact.deferred(layer, optimizer) if way == "deferred" else nullcontext():
        z = layer(x)
        z.backward(torch.ones_like(z))
    truth = oracle_gradient(layer, x, torch.ones_like(z), 0.1)
    assert relative_error(layer.weight.grad, truth) < FLOAT32_PROMISE
