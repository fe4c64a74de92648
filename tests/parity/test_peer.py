"""Agreement with the paper's released code, `torch-tract`, where that is right.

It is right for Linear (2-D and contiguous 3-D inputs) and for Conv2d with zero padding,
one group and no dilation. Both are compared in float64, and in float32 to the promise;
`test_where_the_peer_is_wrong` keeps the list of differences that a user who migrates
will see, against explicit autograd on the oracle's side.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import trainact
from tests.cases import backward, oracle_gradient
from tests.tolerances import FLOAT32_PROMISE, ORACLE_RTOL, relative_error

torch_tract = pytest.importorskip("torch_tract", reason="the peer is not installed")

CASES = {
    "linear 2-D, b > n": (nn.Linear(12, 5), (50, 12)),
    "linear 2-D, b < n": (nn.Linear(60, 5), (10, 60)),
    "linear 3-D": (nn.Linear(12, 5), (4, 20, 12)),
    "linear 3-D, no bias": (nn.Linear(12, 5, bias=False), (4, 20, 12)),
    "conv 3x3/1": (nn.Conv2d(3, 8, 3, padding=1, bias=False), (4, 3, 12, 12)),
    "conv 7x7/2": (nn.Conv2d(3, 8, 7, stride=2, padding=3), (4, 3, 32, 32)),
    "conv 4x4/4": (nn.Conv2d(3, 8, 4, stride=4), (8, 3, 16, 16)),
    "conv, b < n": (nn.Conv2d(3, 8, 5), (2, 3, 6, 6)),
    "conv 3x5, stride 2x1": (
        nn.Conv2d(3, 8, (3, 5), stride=(2, 1), padding=(1, 2)),
        (4, 3, 12, 12),
    ),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", CASES)
def test_agrees(name: str, dtype: torch.dtype) -> None:
    plain, shape = CASES[name]
    layer = copy.deepcopy(plain).to(dtype)
    ours = trainact.TrAct(copy.deepcopy(layer), lam=0.1)
    theirs = torch_tract.TrAct(copy.deepcopy(layer), l=0.1)
    x = torch.randn(shape, dtype=dtype)
    z_ours, _ = backward(ours, x)
    z_theirs, _ = backward(theirs, x)
    rtol = ORACLE_RTOL if dtype == torch.float64 else FLOAT32_PROMISE
    assert relative_error(z_ours, z_theirs) < rtol
    error = relative_error(ours.weight.grad, theirs.weight.grad)
    if dtype == torch.float32 and "b < n" in name:
        # Its dual form subtracts, ours does not: there ours must be the closer one.
        _, grad_z = backward(copy.deepcopy(layer), x)
        truth = oracle_gradient(layer, x, grad_z, 0.1)
        assert relative_error(ours.weight.grad, truth) < FLOAT32_PROMISE
        assert error < 10 * FLOAT32_PROMISE
    else:
        assert error < rtol


def test_where_the_peer_is_wrong() -> None:
    x = torch.randn(4, 3, 12, 12, dtype=torch.float64)
    for change in ({"dilation": 2}, {"padding_mode": "reflect"}):
        plain = nn.Conv2d(3, 8, 3, padding=1, dtype=torch.float64, **change)
        theirs = torch_tract.TrAct(copy.deepcopy(plain))(x)
        ours = trainact.TrAct(copy.deepcopy(plain))(x)
        assert torch.equal(ours, plain(x))
        assert theirs.shape != ours.shape or relative_error(theirs, ours) > 0.01
