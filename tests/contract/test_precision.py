"""Statistics keep their precision, and bad steps leave nothing behind.

- An inf or NaN step under GradScaler is skipped, and training goes on as if it had not
  been (`test_a_skipped_step_leaves_nothing_behind`).
- No global setting of matmul precision reaches A (`test_matmul_precision_setting`).
- Any finite input at any λ gives a finite gradient, within the error bound, in float32
  and under autocast (`test_numerics`).
- Low precision inputs keep A's dtype (`test_statistics_are_kept_in_float32`).
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import trainact
from tests.cases import oracle_gradient, oracle_rows
from tests.parity.table import LAYERS, gradient_like, preconditioned
from tests.tolerances import FLOAT32_PROMISE, GRAM_EPS, relative_error, solve_rtol
from trainact.damping import Damping
from trainact.geometry import layer_geometry
from trainact.gram.route import compute_gram
from trainact.statistics.local import local_factor


def model() -> nn.Sequential:
    return trainact.apply(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    )


def scaled_step(net, optimizer, scaler, x) -> None:
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype=torch.float16):
        loss = net(x).float().square().mean()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()


@pytest.mark.parametrize("bad", [float("inf"), float("nan"), "overflow"])
def test_a_skipped_step_leaves_nothing_behind(bad) -> None:
    net = model()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    scale = 2.0**40 if bad == "overflow" else 2.0**8
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    twin = copy.deepcopy(net)
    twin_optimizer = torch.optim.Adam(twin.parameters(), lr=1e-2)
    good = [torch.randn(4, 3, 6, 6) for _ in range(4)]
    spoilt = good[0].clone()
    if bad != "overflow":
        spoilt[0, 0, 0, 0] = bad
    before = copy.deepcopy(net.state_dict())
    scaled_step(net, optimizer, scaler, spoilt)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    assert not optimizer.state_dict()["state"]
    scaler.update(new_scale=2.0**8)
    twin_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    for x in good:
        scaled_step(net, optimizer, scaler, x)
        scaled_step(twin, twin_optimizer, twin_scaler, x)
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_statistics_are_kept_in_float32(name: str, dtype: torch.dtype) -> None:
    case = LAYERS[name]
    layer, x = case.layer(dtype), case.input(dtype)
    geometry = layer_geometry(layer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        factor = local_factor(x, geometry, Damping(0.1))
    kinds = {tensor.dtype for tensor in factor if tensor is not None}
    assert kinds <= {torch.float32, torch.float64}


@pytest.fixture
def matmul_precision():
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("setting", ["high", "medium"])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(768, 64), (2000, 768)),
        (nn.Linear(768, 64), (200, 768)),
        (nn.Conv2d(3, 64, 7, stride=2), (8, 3, 64, 64)),
    ],
    ids=["linear", "linear, dual", "conv2d"],
)
def test_matmul_precision_setting(
    matmul_precision, setting, layer, shape, record_property
) -> None:
    matmul_precision(setting)
    layer = trainact.TrAct(copy.deepcopy(layer))
    x = torch.randn(shape)
    geometry = layer_geometry(layer)
    error = relative_error(
        compute_gram(x, geometry), compute_gram(x.double(), geometry)
    )
    record_property("relative_error", error)
    assert error < GRAM_EPS * torch.finfo(torch.float32).eps
    z = layer(x)
    grad_z = gradient_like(z)
    # The layer's own products may be rounded as the setting says: that is asked for.
    matmul_precision("highest")
    z.backward(grad_z)
    truth = oracle_gradient(layer, x, grad_z, 0.1)
    assert relative_error(layer.weight.grad, truth) < FLOAT32_PROMISE


def images(fill: str) -> torch.Tensor:
    shape = (4, 2, 7, 7)
    if fill == "one row":
        return torch.randn(1, 2, 3, 3)
    return {
        "constant": torch.ones(shape),
        "zero": torch.zeros(shape),
        "rank one": torch.randn(4, 1, 1, 1) * torch.ones(shape),
        "duplicated rows": torch.randn(1, 2, 7, 7).expand(shape).clone(),
        "0 to 255": torch.randint(0, 256, shape).float(),
        "x 1e4": torch.randn(shape) * 1e4,
        "x 1e-4": torch.randn(shape) * 1e-4,
        "x 1e-30": torch.randn(shape) * 1e-30,
    }[fill]


FILLS = (
    "constant",
    "zero",
    "one row",
    "rank one",
    "duplicated rows",
    "0 to 255",
    "x 1e4",
    "x 1e-4",
    "x 1e-30",
)


@pytest.mark.parametrize("lam", [1e-6, 1e-3, 0.1, 10.0, 1e4])
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
def test_numerics(fill: str, lam: float, autocast: bool, record_property) -> None:
    plain, x = nn.Conv2d(2, 4, 3), images(fill)
    treated = trainact.TrAct(copy.deepcopy(plain), lam=lam)
    for layer in (plain, treated):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            z = layer(x)
        z.backward(gradient_like(z))
    assert torch.isfinite(treated.weight.grad).all()
    truth = preconditioned(plain, x, plain.weight.grad, lam=lam)
    error = relative_error(treated.weight.grad, truth)
    bound = solve_rtol(torch.float32, oracle_rows(plain, x)[0], lam)
    record_property("relative_error", error)
    record_property("bound", bound)
    assert error < max(bound, FLOAT32_PROMISE)
