"""Layers of drawn geometries: what is promised of them beside their ways of training.

1. In float32 at λ = 0.1 and unit scale, the weight's gradient keeps the promised digits
   (`test_float32_promise`), also where the form of the system changes
   (`test_both_forms_around_the_switch`) and for one long row
   (`test_one_long_row_keeps_its_digits`).
2. Nothing else changes: forward, bias gradient and input gradient are bit-identical to
   the plain layer's (`test_everything_else_is_untouched`).
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import trainact
from tests.cases import KINDS, Case, backward, draw_case, oracle_gradient
from tests.odd import ODD
from tests.tolerances import FLOAT32_PROMISE, ORACLE_RTOL, relative_error


def tract_error(case: Case, dtype: torch.dtype) -> float:
    """Relative error of a layer's gradient."""
    layer, x = trainact.TrAct(case.layer(dtype)), case.input(dtype)
    _, grad_z = backward(layer, x)
    truth = oracle_gradient(layer, x, grad_z, layer.lam)
    return relative_error(layer.weight.grad, truth)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_promise(kind: str, record_property) -> None:
    rng = np.random.default_rng(1)
    cases = [draw_case(rng, kind) for _ in range(60)]
    errors = [tract_error(case, torch.float32) for case in cases]
    record_property("worst_relative_error", max(errors))
    assert max(errors) < FLOAT32_PROMISE, cases[np.argmax(errors)]


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 64])
def test_both_forms_around_the_switch(rows: int) -> None:
    case = Case("linear", (rows, 8), {"in_features": 8, "out_features": 3})
    assert tract_error(case, torch.float32) < FLOAT32_PROMISE
    assert tract_error(case, torch.float64) < ORACLE_RTOL


def test_one_long_row_keeps_its_digits() -> None:
    # kappa is 1.5e9 here; a dual form that subtracts would keep no digit at all.
    layer = trainact.TrAct(nn.Linear(150_528, 4))
    x = torch.rand(1, 150_528) * 255
    _, grad_z = backward(layer, x)
    # One row's system is a number: |x|^2 + lam.
    row, grad = x[0].double(), grad_z[0].double()
    truth = torch.outer(grad, row) / (row @ row + 0.1)
    assert relative_error(layer.weight.grad, truth) < FLOAT32_PROMISE


def assert_only_the_weight_differs(case: Case) -> None:
    plain = case.layer(torch.float32)
    results = []
    for layer in (plain, trainact.TrAct(copy.deepcopy(plain))):
        leaf = case.input(torch.float32).requires_grad_()
        z, _ = backward(layer, leaf)
        bias = [] if layer.bias is None else [layer.bias.grad]
        results.append([z, leaf.grad, *bias])
    assert all(map(torch.equal, *results)), case


@pytest.mark.parametrize("kind", KINDS)
def test_everything_else_is_untouched(kind: str) -> None:
    rng = np.random.default_rng(2)
    for _ in range(25):
        assert_only_the_weight_differs(draw_case(rng, kind))


@pytest.mark.parametrize("name", ODD)
def test_everything_else_of_an_odd_layer_is_untouched(name: str) -> None:
    assert_only_the_weight_differs(ODD[name])
