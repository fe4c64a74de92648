"""The layers against the oracle, over drawn geometries.

1. The weight gradient is the oracle's: in float64 to rounding (`test_float64`), in
   float32 to the promise over 600 geometries (`test_float32_promise`).
2. Nothing else changes: forward, bias gradient and input gradient are bit-identical to
   the plain layer's (`test_everything_else_is_untouched`).
3. Dtypes, scales, layouts and call patterns keep 1 (the remaining tests).
"""

from __future__ import annotations

import copy
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import trainact
from tests.cases import Case, backward, draw_case, oracle_gradient, oracle_rtol
from tests.drawing import examples
from tests.odd import ODD
from tests.tolerances import (
    FLOAT32_PROMISE,
    ORACLE_RTOL,
    low_precision_rtol,
    relative_error,
)
from trainact.layers.guard import Guard

KINDS = ("linear", "conv1d", "conv2d", "conv3d")


def tract_error(case: Case, dtype: torch.dtype, lam: float = 0.1, scale: float = 1.0):
    """Relative error of a layer's gradient, and its bound in the dtype."""
    layer = trainact.TrAct(case.layer(dtype), lam=lam)
    x = case.input(dtype) * scale
    _, grad_z = backward(layer, x)
    truth = oracle_gradient(layer, x, grad_z, lam)
    bound = oracle_rtol(layer, x, grad_z, lam, dtype)
    return relative_error(layer.weight.grad, truth), bound


@pytest.mark.parametrize("kind", KINDS)
def test_float64(kind: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        case = draw_case(rng, kind)
        error, _ = tract_error(case, torch.float64)
        assert error < ORACLE_RTOL, case


@pytest.mark.parametrize("kind", KINDS)
def test_float32_promise(kind: str, record_property) -> None:
    rng = np.random.default_rng(1)
    errors = {}
    for _ in range(150):
        case = draw_case(rng, kind)
        errors[case.shape, str(case)], _ = tract_error(case, torch.float32)
    worst = max(errors, key=errors.__getitem__)
    record_property("worst_relative_error", errors[worst])
    assert errors[worst] < FLOAT32_PROMISE, worst


@pytest.mark.parametrize("kind", KINDS)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    scale=st.sampled_from([1e-3, 0.1, 1.0, 10.0]),
    lam=st.sampled_from([0.00625, 0.1, 1.6]),
)
@examples(40)
def test_error_is_bounded_by_the_condition_number(
    kind: str, seed: int, dtype: torch.dtype, scale: float, lam: float
) -> None:
    case = draw_case(np.random.default_rng(seed), kind)
    error, bound = tract_error(case, dtype, lam, scale)
    assert error < bound, case


@pytest.mark.parametrize("kind", KINDS)
def test_everything_else_is_untouched(kind: str) -> None:
    rng = np.random.default_rng(2)
    for _ in range(25):
        case = draw_case(rng, kind)
        plain = case.layer(torch.float32)
        treated = trainact.TrAct(copy.deepcopy(plain))
        x_plain = case.input(torch.float32).requires_grad_()
        x_treated = case.input(torch.float32).requires_grad_()
        z_plain, _ = backward(plain, x_plain)
        z_treated, _ = backward(treated, x_treated)
        assert torch.equal(z_plain, z_treated), case
        assert torch.equal(x_plain.grad, x_treated.grad), case
        if plain.bias is not None:
            assert torch.equal(plain.bias.grad, treated.bias.grad), case


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_low_precision_models(kind: str, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        error, _ = tract_error(draw_case(rng, kind), dtype)
        assert error < low_precision_rtol(dtype)


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 64])
def test_both_forms_around_the_switch(rows: int) -> None:
    case = Case("linear", (rows, 8), {"in_features": 8, "out_features": 3})
    assert tract_error(case, torch.float32)[0] < FLOAT32_PROMISE
    assert tract_error(case, torch.float64)[0] < ORACLE_RTOL


@pytest.mark.parametrize("requires_grad", [False, True])
def test_dual_form_with_and_without_input_gradient(requires_grad: bool) -> None:
    layer = trainact.TrAct(nn.Linear(50, 3, dtype=torch.float64))
    x = torch.randn(6, 50, dtype=torch.float64, requires_grad=requires_grad)
    _, grad_z = backward(layer, x)
    truth = oracle_gradient(layer, x, grad_z, 0.1)
    assert relative_error(layer.weight.grad, truth) < ORACLE_RTOL


def test_one_long_row_keeps_its_digits() -> None:
    # kappa is 1.5e9 here; a dual form that subtracts would keep no digit at all.
    layer = trainact.TrAct(nn.Linear(150_528, 4))
    x = torch.rand(1, 150_528) * 255
    _, grad_z = backward(layer, x)
    truth = oracle_gradient_of_one_row(x, grad_z, 0.1)
    assert relative_error(layer.weight.grad, truth) < FLOAT32_PROMISE


def oracle_gradient_of_one_row(x, grad_z, lam):
    # One row's system is a number: |x|^2 + lam.
    row, grad = x[0].double(), grad_z[0].double()
    return torch.outer(grad, row) / (row @ row + lam)


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


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-6, 1.0, 255.0, 1e4])
@pytest.mark.parametrize("fill", ["constant", "rank one", "random"])
@pytest.mark.parametrize("rows", [1, 5, 300])
def test_finite_inputs_give_finite_gradients(scale, fill, rows) -> None:
    x = {
        "constant": torch.ones(rows, 27),
        "rank one": torch.randn(rows, 1) * torch.randn(1, 27),
        "random": torch.randn(rows, 27),
    }[fill] * scale
    layer = trainact.TrAct(nn.Linear(27, 4), lam=0.00625)
    backward(layer, x)
    assert torch.isfinite(layer.weight.grad).all()


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


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.transpose(0, 1),
        lambda x: x[:, ::2],
        lambda x: x[:1].expand(5, -1, -1),
        lambda x: x.permute(1, 0, 2),
    ],
    ids=["transposed", "strided", "expanded", "permuted"],
)
def test_linear_takes_any_layout(view) -> None:
    layer = trainact.TrAct(nn.Linear(6, 3, dtype=torch.float64))
    x = view(torch.randn(5, 4, 6, dtype=torch.float64))
    _, grad_z = backward(layer, x)
    truth = oracle_gradient(layer, x, grad_z, 0.1)
    assert relative_error(layer.weight.grad, truth) < ORACLE_RTOL


def test_channels_last() -> None:
    layer = trainact.TrAct(nn.Conv2d(3, 8, 3, stride=2, padding=1))
    layer = layer.to(memory_format=torch.channels_last)
    x = torch.randn(4, 3, 9, 9).to(memory_format=torch.channels_last)
    _, grad_z = backward(layer, x)
    truth = oracle_gradient(layer, x, grad_z, 0.1)
    assert relative_error(layer.weight.grad, truth) < FLOAT32_PROMISE


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
