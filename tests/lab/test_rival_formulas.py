"""Rivals and extensions of TrAct against explicit computations in float64.

The oracle (`tests.cases`, on `trainact.reference`) shares no code with the methods.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import trainact
from tests.cases import backward, draw_case, oracle_grad_rows, oracle_rows
from tests.lab.applied import apply, settings_for
from tests.tolerances import FLOAT32_PROMISE, ORACLE_RTOL, relative_error
from trainact import reference
from trainact.lab.config import Setting
from trainact.lab.errors import LabError
from trainact.lab.methods import METHODS, MethodSettings
from trainact.lab.methods.zca import EPS, zca_matrix
from trainact.lab.models import build_model
from trainact.lab.optimizers import make_optimizer
from trainact.lab.trainer import deferral

KINDS = ("linear", "conv1d", "conv2d", "conv3d")
LAM = 0.1
Gradients = tuple[np.ndarray, np.ndarray]


def drawn(kind: str, seed: int) -> tuple[Any, Tensor]:
    """A layer in float64 with a bias, and a batch of inputs that are not centred."""
    rng = np.random.default_rng(seed)
    while True:
        case = draw_case(rng, kind)
        layer: Any = case.layer(torch.float64)
        lead = 1 if kind == "linear" else int(kind[4]) + 1
        if layer.bias is not None and len(case.shape) > lead:
            return layer, case.input(torch.float64, seed) + 0.7


def by_group(layer: Any, x: Tensor, grad_z: Tensor, rule: Callable[..., Gradients]):
    """A rule's gradients of weight and bias, group by group."""
    pairs = zip(oracle_rows(layer, x), oracle_grad_rows(layer, grad_z), strict=True)
    weights, biases = zip(*(rule(rows, grad) for rows, grad in pairs), strict=True)
    weight = np.concatenate(weights).reshape(layer.weight.shape)
    return weight, np.concatenate(biases)


def with_ones(x_NP: np.ndarray, grad_NO: np.ndarray) -> Gradients:
    """TrAct on patches with a constant 1."""
    rows_NQ = np.concatenate([x_NP, np.ones((len(x_NP), 1))], axis=1)
    both_OQ = reference.tract_gradient(grad_NO, rows_NQ, LAM)
    return both_OQ[:, :-1], both_OQ[:, -1]


def two_factors(x_NP: np.ndarray, grad_NO: np.ndarray) -> Gradients:
    """One system for the whole weight, of the Kronecker product of both factors."""
    num_rows = len(x_NP)
    moment_PP, own_NO = x_NP.T @ x_NP / num_rows, num_rows * grad_NO
    outputs_OO = own_NO.T @ own_NO / num_rows
    damped_PP, damped_OO = (
        m + LAM * np.trace(m) / len(m) * np.eye(len(m)) for m in (moment_PP, outputs_OO)
    )
    grad_OP = grad_NO.T @ x_NP
    both = np.linalg.solve(np.kron(damped_OO, damped_PP), grad_OP.ravel())
    return both.reshape(grad_OP.shape), grad_NO.sum(0)


def in_own_units(x_NP: np.ndarray, grad_NO: np.ndarray) -> Gradients:
    """TrAct on patches whose entries have mean square 1, carried back to W."""
    size = (x_NP**2).mean() ** 0.5
    weight_OP = reference.tract_gradient(grad_NO, x_NP / size, LAM)
    return size * weight_OP, grad_NO.sum(0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("method", "rule"), [("tract-joint", with_ones), ("tract-scaled", in_own_units)]
)
def test_rules(kind: str, method: str, rule: Callable[..., Gradients]) -> None:
    for seed in range(15):
        layer, x = drawn(kind, seed)
        apply(method, layer, x, layer="")
        _, grad_z = backward(layer, x)
        weight, bias = by_group(layer, x, grad_z, rule)
        assert relative_error(layer.weight.grad, weight) < ORACLE_RTOL
        assert relative_error(layer.bias.grad, bias) < ORACLE_RTOL


@pytest.mark.parametrize("kind", KINDS)
def test_kfac(kind: str) -> None:
    for seed in range(15):
        layer, x = drawn(kind, seed)
        twin = trainact.TrAct(type(layer)(**arguments_of(layer)), LAM, relative=True)
        twin.load_state_dict(layer.state_dict())
        apply("kfac", layer, x, layer="")
        _, grad_z = backward(layer, x)
        backward(twin, x)
        weight, bias = by_group(layer, x, grad_z, two_factors)
        weight *= float(twin.weight.grad.norm()) / np.linalg.norm(weight)
        assert relative_error(layer.weight.grad, weight) < ORACLE_RTOL
        assert relative_error(layer.bias.grad, bias) < ORACLE_RTOL


@pytest.mark.parametrize("scale", [1 / 255, 255.0])
def test_behind_a_norm_the_scale_of_the_input_is_not_seen(scale: float) -> None:
    """Not by tract-scaled, as not by vanilla training; TrAct's step shrinks by c²."""
    steps = {}
    for method in ("vanilla", "tract-scaled", "tract-relative"):
        for factor in (1.0, scale):
            torch.manual_seed(0)
            conv = nn.Conv2d(3, 5, 3, bias=False)
            model = nn.Sequential(
                conv, nn.BatchNorm2d(5, eps=1e-30), nn.ReLU()
            ).double()
            x = torch.randn(4, 3, 9, 9, dtype=torch.float64) + 0.3
            apply(method, model, factor * x, layer="0")
            model(factor * x).square().sum().backward()
            steps[method, factor] = conv.weight.grad
    for method, power in (("vanilla", 0), ("tract-scaled", 0), ("tract-relative", -2)):
        expected = scale**power * steps[method, 1.0]
        assert relative_error(steps[method, scale], expected) < 1e-10


def test_scaled_of_zeros_is_zero() -> None:
    layer, x = nn.Linear(3, 2), torch.zeros(4, 3)
    apply("tract-scaled", layer, x, layer="")
    layer(x).sum().backward()
    assert not layer.weight.grad.any()


def arguments_of(layer: Any) -> dict[str, Any]:
    names = ("in_features", "out_features") if isinstance(layer, nn.Linear) else CONV
    return {"dtype": torch.float64} | {name: getattr(layer, name) for name in names}


CONV = (
    *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation"),
    *("groups", "padding_mode"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_whitening_with_tract(kind: str) -> None:
    for seed in range(15):
        layer, x = drawn(kind, seed)
        apply("whitening+tract", layer, x, layer="")
        _, grad_z = backward(layer, x)
        whitening = layer.whitening.numpy()
        gradients = [
            reference.tract_gradient(grad_NO, x_NP @ v.T, LAM)
            for x_NP, grad_NO, v in zip(
                oracle_rows(layer, x),
                oracle_grad_rows(layer, grad_z),
                whitening,
                strict=True,
            )
        ]
        truth = np.concatenate(gradients).reshape(layer.weight.shape)
        assert relative_error(layer.weight.grad, truth) < ORACLE_RTOL


def test_zca_images_are_white_and_look_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4000, 3, 4, 4, generator=generator, dtype=torch.float64)
    images = images.cumsum(-1) * 3 + 5  # so that every direction is far above ε
    model = nn.Sequential(nn.Conv2d(3, 2, 3, dtype=torch.float64))
    seen = []
    apply("zca", model, images)
    model[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(images)
    rows = seen[0].flatten(1)
    assert rows.mean(0).abs().max() < 1e-10
    values = torch.linalg.eigvalsh(rows.mT @ rows / len(rows))
    moment = images.flatten(1) - images.flatten(1).mean(0)
    before = torch.linalg.eigvalsh(moment.mT @ moment / len(moment))
    assert relative_error(values.sort()[0], before / (before + EPS)) < 1e-9
    matrix, _ = zca_matrix(images)
    assert relative_error(matrix, matrix.mT) < ORACLE_RTOL
    assert torch.linalg.eigvalsh(matrix).min() > 0


SETTING = Setting(
    data="digits", model="small-cnn", epochs=1, batch_size=4, optimizer="sgd", lr=0.1
)


@pytest.mark.parametrize(
    ("method", "start", "end"), [("tract-rising", 0.25, 4), ("tract-falling", 4, 0.25)]
)
def test_lam_follows_the_learning_rate(method: str, start: float, end: float) -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    apply(method, model, torch.randn(4, 3), layer="0")
    optimizer = METHODS[method].optimizer(model, SETTING)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 4)
    used = []
    for _ in range(5):
        # The closure's forward must see the λ of its step, also after a checkpoint.
        optimizer.step(lambda: used.append(model[0].lam) or torch.zeros(()))
        schedule.step()
    expected = LAM * start * (end / start) ** (np.arange(5) / 4)
    assert used == pytest.approx(expected)


@pytest.mark.parametrize(
    ("method", "attribute", "value"),
    [
        ("tract-relative", "relative", True),
        ("tract-running", "estimate", trainact.Estimate(decay=0.93)),
        ("tract-sampled", "estimate", trainact.Estimate(fraction=0.125)),
    ],
)
def test_options_are_those_of_the_layer(method: str, attribute: str, value) -> None:
    x = torch.randn(6, 3, 16, 16)
    model = apply(method, build_model("small-cnn", (3, 16, 16), 5), x)
    assert getattr(model.conv1, attribute) == value
    assert [*trainact.tract_layers(model)] == ["conv1"]


def test_all_layers() -> None:
    x = torch.randn(6, 3, 16, 16)
    model = apply("tract-all", build_model("small-cnn", (3, 16, 16), 5), x)
    assert [*trainact.tract_layers(model)] == ["conv1", "conv2", "conv3", "head"]


@pytest.mark.parametrize("kind", ["muon", "soap"])
def test_first_layers_with_an_optimizer_of_their_own(kind: str) -> None:
    x = torch.randn(6, 3, 16, 16)
    model = apply(f"vanilla+{kind}", build_model("small-cnn", (3, 16, 16), 5), x)
    optimizer: Any = METHODS[f"vanilla+{kind}"].optimizer(model, SETTING)
    first, rest = optimizer.optimizers
    assert type(first).__name__.lower() == kind
    assert type(rest) is torch.optim.SGD
    own = [p for group in first.param_groups for p in group["params"]]
    assert [id(p) for p in own] == [id(p) for p in model.conv1.parameters()]


def test_muon_makes_a_first_layers_step_orthogonal() -> None:
    layer = nn.Conv2d(3, 8, 3, bias=False)
    before = layer.weight.detach().clone()
    setting = Setting(**{**SETTING.to_json(), "optimizer": "muon"})
    optimizer = make_optimizer(layer, setting)
    layer(torch.randn(4, 3, 9, 9)).square().sum().backward()
    optimizer.step()
    values = torch.linalg.svdvals((layer.weight - before).flatten(1))
    assert values.max() / values.min() < 2  # the gradient's own: hundreds


@pytest.mark.parametrize("method", ["tract-running", "tract-sampled"])
def test_estimates_do_not_see_micro_batches_as_one_batch(method: str) -> None:
    model = apply(method, nn.Sequential(nn.Conv2d(3, 4, 3)), torch.randn(8, 3, 16, 16))
    assert deferral(model, 1) == []
    with pytest.raises(LabError, match="leave --micro-batch out"):
        deferral(model, 2)


@pytest.mark.parametrize(
    "method", ["kfac", "tract-joint", "tract-scaled", "whitening+tract"]
)
def test_rules_refuse_what_they_do_not_see(method: str) -> None:
    x = torch.randn(2, 3)
    settings: MethodSettings = settings_for(x, "")
    together = MethodSettings(**{**vars(settings), "sync": True})
    with pytest.raises(ValueError, match="train with one"):
        METHODS[method].convert(nn.Linear(3, 2), together)


@pytest.mark.parametrize("method", ["kfac", "tract-joint", "tract-scaled"])
def test_rules_change_no_other_gradient(method: str) -> None:
    x = torch.randn(6, 3, 16, 16)
    torch.manual_seed(0)
    plain = build_model("small-cnn", (3, 16, 16), 5)
    torch.manual_seed(0)
    ruled = apply(method, build_model("small-cnn", (3, 16, 16), 5), x)
    for model in (plain, ruled):
        model(x).square().mean().backward()
    for (name, p), q in zip(plain.named_parameters(), ruled.parameters(), strict=True):
        if not name.startswith("conv1."):
            assert relative_error(q.grad, p.grad) < FLOAT32_PROMISE, name
    assert relative_error(ruled.conv1.weight.grad, plain.conv1.weight.grad) > 0.1
