"""Every layer in every way of training, against the oracle.

1. The parameters' gradients are the oracle's.
2. The weight's is what the plain layer's would be in the same way of training, times
   (A + λI)⁻¹.
3. Outputs and bias gradients are the plain layer's, and so are the shapes and dtypes of
   all gradients.
4. With the ways, layers, dtypes, layouts, scales and λ drawn at random, 1 still holds
   (`test_drawn`).
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

import trainact
from tests.cases import KINDS, Case, draw_case, oracle_gradient, oracle_rtol
from tests.drawing import examples
from tests.tolerances import relative_error

from .table import CASES, LAYERS, WAYS, Result, preconditioned

ROWS = [(way, name) for way in WAYS for name in WAYS[way].layers]


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
    treated = trainact.TrAct(copy.deepcopy(plain), **way.settings)
    x = case.input(way.dtype)
    x = way.view(x) if way.view else x
    return Outcome(plain, x, way.run(plain, x), way.run(treated, x))


# torch's own notice when a weight norm is batched
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize(("way", "name"), ROWS)
def test_a_way(way: str, name: str, record_property) -> None:
    row, case = WAYS[way], CASES[name]
    plain, x, before, after = train(way, case)
    truth = case.gradients(plain, x, after.grad_z, relative=row.relative)
    errors = {
        key: relative_error(after.gradients[key], wanted)
        for key, wanted in truth.items()
    }
    record_property("relative_error", errors)
    assert max(errors.values()) < row.oracle_rtol, errors
    if name in LAYERS:
        wanted = preconditioned(plain, x, before.weight, relative=row.relative)
        assert relative_error(after.weight, wanted) < row.rtol
    for key, ordinary in before.gradients.items():
        assert after.gradients[key].dtype == ordinary.dtype
        assert after.gradients[key].shape == ordinary.shape
        if key not in truth:
            assert relative_error(after.gradients[key], ordinary) < row.rtol, key
    if row.same_forward:
        assert torch.equal(after.z, before.z)
    else:
        assert relative_error(after.z, before.z) < row.rtol


# Compiling takes a second for each geometry: the table does that. Layouts are drawn.
DRAWN = [
    name
    for name, way in WAYS.items()
    if "compile" not in name and "channels" not in name and way.view is None
]
LAYOUTS = ("as it is", "channels last", "every second", "transposed")


def laid_out(layout: str, layer: nn.Module, x: Tensor) -> tuple[nn.Module, Tensor]:
    if layout == "channels last" and 4 <= x.ndim == len(layer.weight.shape):
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        return tuple(v.to(memory_format=formats[x.ndim]) for v in (layer, x))
    if layout == "every second":
        return layer, x.repeat_interleave(2, dim=-1)[..., ::2]
    if layout == "transposed" and x.ndim > 1:
        return layer, x.transpose(0, -1).contiguous().transpose(0, -1)
    return layer, x


@pytest.mark.parametrize("kind", KINDS)
@given(
    seed=st.integers(0, 2**32 - 1),
    way=st.sampled_from(DRAWN),
    layout=st.sampled_from(LAYOUTS),
    scale=st.sampled_from([1e-3, 0.1, 1.0, 10.0]),
    lam=st.sampled_from([0.00625, 0.1, 1.6]),
)
@examples(60)
def test_drawn(
    kind: str, seed: int, way: str, layout: str, scale: float, lam: float
) -> None:
    assume(scale <= 1 or "GradScaler" not in way)  # gradients overflow, as they may
    row, case = WAYS[way], draw_case(np.random.default_rng(seed), kind)
    layer = trainact.TrAct(case.layer(row.dtype), lam, **row.settings)
    layer, x = laid_out(layout, layer, scale * case.input(row.dtype))
    _, grad_z, gradients = row.run(layer, x)
    truth = oracle_gradient(layer, x, grad_z, lam, row.relative)
    # A drawn input may be one row or nearly dependent rows: the general bound.
    work = row.work or row.dtype
    bound = oracle_rtol(layer, x, grad_z, lam, work, row.relative)
    error = relative_error(gradients["weight"], truth)
    assert error < max(bound, row.oracle_rtol), case
