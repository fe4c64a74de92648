"""LAMB step by step, which parameters decay, and LAMB among several optimizers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

import trainact
from tests.lab.conftest import CONFIG
from trainact.lab.config import Setting
from trainact.lab.models.deit3 import build
from trainact.lab.optimizers import (
    DECAYS,
    ChainedOptimizer,
    caffe_groups,
    lamb,
    make_optimizer,
    optimizer_over,
)
from trainact.lab.schedules import make_schedule

LAMB = replace(
    CONFIG, optimizer="lamb", lr=0.02, weight_decay=0.3, decay="matrices"
).setting


def perceptron(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    return layers.to(dtype)


def gradients(model: nn.Module, scale: float, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.grad = (scale * noise).to(parameter.dtype)
        found.append(parameter.grad.clone())
    return found


def groups_by_name(model: nn.Module, setting: Setting) -> dict[str, dict[str, Any]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: group
        for group in make_optimizer(model, setting).param_groups
        for parameter in group["params"]
    }


# LAMB.


class LambByHand:
    """LAMB of float64 arrays, one line for each of its formulas."""

    def __init__(self, weights: list[np.ndarray], decays: list[float]) -> None:
        self.weights, self.decays = weights, decays
        self.means = [np.zeros_like(w) for w in weights]
        self.squares = [np.zeros_like(w) for w in weights]
        self.steps = 0

    def step(self, grads: list[np.ndarray], lr: float) -> None:
        self.steps += 1
        norm = np.sqrt(sum((g**2).sum() for g in grads))
        for i, grad in enumerate(grads):
            clipped = grad / max(norm, 1.0)
            self.means[i] = 0.9 * self.means[i] + 0.1 * clipped
            self.squares[i] = 0.999 * self.squares[i] + 0.001 * clipped**2
            mean = self.means[i] / (1 - 0.9**self.steps)
            square = self.squares[i] / (1 - 0.999**self.steps)
            update = mean / (np.sqrt(square) + 1e-8)
            trust = 1.0
            if self.decays[i]:
                update = update + self.decays[i] * self.weights[i]
                trust = np.linalg.norm(self.weights[i]) / np.linalg.norm(update)
            self.weights[i] = self.weights[i] - lr * trust * update


@pytest.mark.parametrize("scale", [1e-3, 0.1, 30.0])
def test_lamb_by_hand(scale: float) -> None:
    """Where the clip does nothing, something in some steps, and much in all."""
    model = perceptron()
    optimizer = make_optimizer(model, LAMB)
    parameters = list(model.parameters())
    decays = [0.3 if p.ndim > 1 else 0.0 for p in parameters]
    by_hand = LambByHand([p.detach().numpy().copy() for p in parameters], decays)
    for step in range(5):
        grads = gradients(model, scale, step)
        optimizer.step()
        by_hand.step([g.numpy() for g in grads], 0.02)
        for parameter, wanted in zip(parameters, by_hand.weights, strict=True):
            found = parameter.detach()
            torch.testing.assert_close(
                found, torch.from_numpy(wanted), rtol=1e-10, atol=1e-12
            )


def test_lambs_clip_leaves_the_gradient_as_it_is() -> None:
    model = perceptron()
    grads = gradients(model, 30.0, 0)
    make_optimizer(model, LAMB).step()
    for parameter, wanted in zip(model.parameters(), grads, strict=True):
        assert torch.equal(parameter.grad, wanted)


def test_lamb_sees_tracts_gradient() -> None:
    """It is TrAct's that is clipped together with the others'."""
    x = torch.randn(40, 6, dtype=torch.float64)
    means: dict[bool, Tensor] = {}
    for with_tract in (False, True):
        model = perceptron()
        if with_tract:
            trainact.apply(model, lam=0.1, layer="0")
        optimizer = make_optimizer(model, LAMB)
        (100 * model(x).square()).sum().backward()
        grads = [p.grad for p in model.parameters()]
        norm = torch.stack([g.norm() for g in grads if g is not None]).norm()
        assert norm > 1
        optimizer.step()
        first: Any = model[0]
        means[with_tract] = optimizer.state[first.weight]["exp_avg"]
        torch.testing.assert_close(means[with_tract], 0.1 * first.weight.grad / norm)
    assert not torch.allclose(means[True], means[False], rtol=0.1)


# Which parameters decay.


def test_all_decay_unless_told_otherwise() -> None:
    ours, theirs = perceptron(), perceptron()
    plain = SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.2)
    setting = replace(CONFIG, weight_decay=0.2).setting
    assert setting.decay == "all"
    optimizer = make_optimizer(ours, setting)
    assert len(optimizer.param_groups) == 1
    for step in range(3):
        for model, stepped in ((ours, optimizer), (theirs, plain)):
            gradients(model, 1.0, step)
            stepped.step()
    for found, wanted in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "lamb"])
def test_matrices_decay_but_not_what_the_model_exempts(optimizer: str) -> None:
    model = build("tiny-patch8", (3, 16, 16), 10)
    found = groups_by_name(model, replace(LAMB, optimizer=optimizer))
    assert found.keys() == dict(model.named_parameters()).keys()
    assert {name for name, group in found.items() if group["weight_decay"]} == {
        "patch_embed.proj.weight",
        "head.weight",
        *(
            f"blocks.{block}.{part}.weight"
            for block in range(12)
            for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        ),
    }
    assert {group["weight_decay"] for group in found.values()} == {0.0, 0.3}
    assert {group["lr"] for group in found.values()} == {0.02}


def test_matrices_of_a_model_that_exempts_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model[0].bias.requires_grad_(False)
    found = groups_by_name(model, LAMB)
    assert {name: group["weight_decay"] for name, group in found.items()} == {
        "0.weight": 0.3,
        "1.weight": 0.0,
        "1.bias": 0.0,
    }


def test_caffes_biases_learn_twice_as_fast_and_do_not_decay() -> None:
    setting = replace(LAMB, optimizer="sgd", decay="caffe")
    found = groups_by_name(perceptron(), setting)
    for name, group in found.items():
        is_bias = name.endswith("bias")
        assert group["lr"] == (0.04 if is_bias else 0.02)
        assert group["weight_decay"] == (0.0 if is_bias else 0.3)
        assert group["momentum"] == 0.9
    assert len(found) == 4


def test_caffe_leaves_out_what_is_frozen_or_empty() -> None:
    model = nn.Linear(2, 3)
    (weights,) = caffe_groups([("weight", model.weight)], 0.1, 0.5)
    assert weights == {"params": [model.weight], "lr": 0.1, "weight_decay": 0.5}
    model.weight.requires_grad_(False)
    (biases,) = caffe_groups(model.named_parameters(), 0.1, 0.5)
    assert biases == {"params": [model.bias], "lr": 0.2, "weight_decay": 0.0}


def test_a_schedule_keeps_caffes_two_rates_apart() -> None:
    setting = replace(LAMB, optimizer="sgd", decay="caffe", schedule="cosine")
    model = perceptron()
    optimizer = make_optimizer(model, setting)
    schedule = make_schedule(optimizer, setting, 4)
    for _ in range(5):
        optimizer.step()
        schedule.step()
    weights, biases = (group["lr"] for group in optimizer.param_groups)
    assert biases == pytest.approx(2 * weights)
    assert weights < 0.02


@pytest.mark.parametrize("decay", DECAYS)
def test_every_parameter_is_in_one_group(decay: str) -> None:
    model = build("tiny-patch8", (3, 8, 8), 2)
    optimizer = make_optimizer(model, replace(LAMB, decay=decay))
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(map(id, model.parameters()))


def test_a_part_of_a_model_decays_as_the_whole() -> None:
    model: Any = build("tiny-patch8", (3, 8, 8), 2)
    chosen = [model.cls_token, model.head.weight, model.head.bias]
    by_name = optimizer_over(chosen, LAMB, model).param_groups
    decays = {id(p): g["weight_decay"] for g in by_name for p in g["params"]}
    assert decays == dict(zip(map(id, chosen), (0.0, 0.3, 0.0), strict=True))
    (alike,) = optimizer_over(chosen, LAMB).param_groups
    assert alike["weight_decay"] == 0.3


# LAMB as one of several.


def chained(model: Any) -> ChainedOptimizer:
    first = SGD(model[0].parameters(), lr=0.1, momentum=0.9)
    rest = list(model[2].parameters())
    return ChainedOptimizer([first, optimizer_over(rest, LAMB, model)])


def test_lamb_in_a_chain_is_lamb_alone() -> None:
    together, apart = perceptron(torch.float32), perceptron(torch.float32)
    as_one = chained(together)
    alone: list[Optimizer] = [
        SGD(apart[0].parameters(), lr=0.1, momentum=0.9),
        optimizer_over(list(apart[2].parameters()), LAMB, apart),
    ]
    for step in range(4):
        for model, optimizers in ((together, [as_one]), (apart, alone)):
            gradients(model, 5.0, step)
            for optimizer in optimizers:
                optimizer.step()
    for found, wanted in zip(together.parameters(), apart.parameters(), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    "make", [chained, lambda model: make_optimizer(model, LAMB)], ids=["chain", "lamb"]
)
def test_lamb_goes_on_from_a_state_dict(make: Callable[[Any], Optimizer]) -> None:
    """Its number of steps is in the groups, not in the state of a parameter."""
    whole, resumed = perceptron(torch.float32), perceptron(torch.float32)
    optimizer, other = make(whole), make(resumed)
    for step in range(6):
        if step == 3:
            resumed.load_state_dict(whole.state_dict())
            other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for model, stepped in ((whole, optimizer), (resumed, other))[: 1 + step // 3]:
            gradients(model, 5.0, step)
            stepped.step()
    for found, wanted in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(found, wanted)


def test_lambs_defaults() -> None:
    group = lamb([{"params": [nn.Parameter(torch.zeros(2))]}], 0.1).defaults
    assert (group["eps"], group["betas"]) == (1e-8, (0.9, 0.999))
    assert group["max_grad_norm"] == 1.0
