"""Every layer in every way of training, against the oracle.

1. The weight's gradient is what the plain layer's would be in the same way of training,
   times (A + λI)⁻¹.
2. It is the oracle's gradient.
3. Outputs and bias gradients are the plain layer's, and so is the dtype of the
   gradient.
4. With the ways, layers, dtypes and layouts drawn at random, 2 still holds
   (`test_fuzz`).
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import trainact
from tests.cases import Case, draw_case, oracle_gradient, oracle_rtol
from tests.drawing import examples
from tests.odd import ODD, raw_weight
from tests.tolerances import relative_error

from .table import LAYERS, WAYS, Result, preconditioned


def is_for_odd(way: str, layer: str) -> bool:
    """Whether a way is tried on a layer of a class of its own."""
    if "channels_last" in way:
        return way == "channels_last" and ODD[layer].kind == "conv"
    if way == "func.jacfwd" and "weight norm" in layer:
        return False  # torch has no forward mode for its weight norm
    # Dynamo enters no torch function mode inside a checkpoint without breaking the
    # graph there, which test_compile.py allows it.
    return way != "compile of checkpoint" or ODD[layer].is_as_parent


ROWS = [(way, layer) for way in WAYS for layer in WAYS[way].layers]
ODD_ROWS = [(way, layer) for way in WAYS for layer in ODD if is_for_odd(way, layer)]


class Outcome(NamedTuple):
    layer: nn.Module
    x: Tensor
    plain: Result
    treated: Result


def train(way_name: str, case: Case) -> Outcome:
    """Train both layers on one batch."""
    way = WAYS[way_name]
    torch.manual_seed(0)
    plain = case.layer(way.dtype)
    treated = trainact.TrAct(copy.deepcopy(plain))
    x = case.input(way.dtype)
    x = way.view(x) if way.view else x
    return Outcome(plain, x, way.run(plain, x), way.run(treated, x))


@pytest.mark.parametrize(("way", "layer"), ROWS)
def test_a_way(way: str, layer: str, record_property) -> None:
    outcome = train(way, LAYERS[layer])
    plain, x, before, after = outcome
    expected = preconditioned(plain, x, before.weight)
    to_plain = relative_error(after.weight, expected)
    truth = oracle_gradient(plain, x, after.grad_z, 0.1)
    to_oracle = relative_error(after.weight, truth)
    record_property("relative_error", (to_plain, to_oracle))
    assert to_plain < WAYS[way].rtol
    assert to_oracle < WAYS[way].oracle_rtol
    assert_nothing_else_changes(way, outcome)


# torch's own notice when a weight norm is batched
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize(("way", "layer"), ODD_ROWS)
def test_a_way_with_an_odd_layer(way: str, layer: str, record_property) -> None:
    outcome = train(way, ODD[layer])
    plain, x, _, after = outcome
    truth = raw_weight(ODD[layer].gradients(plain, x, after.grad_z))
    error = relative_error(after.weight, truth)
    record_property("relative_error", error)
    assert error < WAYS[way].oracle_rtol
    assert_nothing_else_changes(way, outcome)


def assert_nothing_else_changes(way: str, outcome: Outcome) -> None:
    _, _, before, after = outcome
    assert after.weight.dtype == before.weight.dtype
    assert after.weight.shape == before.weight.shape
    if WAYS[way].same_forward:
        assert torch.equal(after.z, before.z)
    else:
        assert relative_error(after.z, before.z) < WAYS[way].rtol
    if before.bias is not None:
        assert relative_error(after.bias, before.bias) < WAYS[way].rtol


# Compiling takes a second for each geometry: the table does that. Layouts are drawn.
DRAWN = [
    name
    for name, way in WAYS.items()
    if "compile" not in name and "channels" not in name and way.view is None
]
KINDS = ("linear", "conv1d", "conv2d", "conv3d")


@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(KINDS),
    way=st.sampled_from(DRAWN),
    layout=st.sampled_from(["as it is", "channels last", "every second", "transposed"]),
)
@examples(150)
def test_fuzz(seed: int, kind: str, way: str, layout: str) -> None:
    row, case = WAYS[way], draw_case(np.random.default_rng(seed), kind)
    layer, x = trainact.TrAct(case.layer(row.dtype)), case.input(row.dtype)
    if layout == "channels last" and 4 <= x.ndim == len(layer.weight.shape):
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        layer, x = (v.to(memory_format=formats[x.ndim]) for v in (layer, x))
    elif layout == "every second":
        x = x.repeat_interleave(2, dim=-1)[..., ::2]
    elif layout == "transposed" and x.ndim > 1:
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    _, grad_z, weight, _ = row.run(layer, x)
    truth = oracle_gradient(layer, x, grad_z, 0.1)
    # A drawn input may be one row or nearly dependent rows: the general bound.
    work = row.work or row.dtype
    bound = oracle_rtol(layer, x, grad_z, 0.1, work)
    assert relative_error(weight, truth) < max(bound, row.oracle_rtol), case
