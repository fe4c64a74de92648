"""Adam with one second moment for each row, step by step, and how methods use it."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests.lab.conftest import CONFIG
from tests.tolerances import ORACLE_RTOL, relative_error
from trainact.lab.methods import METHODS
from trainact.lab.optimizers import ChainedOptimizer
from trainact.lab.row_adam import RowAdam

from .applied import apply

SHAPE = (4, 3, 2, 2)


def train(
    shape: tuple[int, ...], kind: type[torch.optim.Optimizer], **settings: float
) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    draws = [
        torch.randn(shape, generator=generator, dtype=torch.float64) * 10.0**-k
        for k in range(6)
    ]
    before, grads = draws[0], draws[1:]
    weight = nn.Parameter(before.clone())
    optimizer = kind([weight], lr=0.1, **settings)
    for grad in grads:
        weight.grad = grad.clone()
        optimizer.step()
    return before, grads, weight.detach()


def test_formula() -> None:
    before, grads, after = train(SHAPE, RowAdam, weight_decay=0.2)
    w = before.numpy().reshape(4, 12)
    m, v = np.zeros((4, 12)), np.zeros((4, 1))
    for t, grad in enumerate(grads, start=1):
        g = grad.numpy().reshape(4, 12) + 0.2 * w
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * (g**2).mean(1, keepdims=True)
        w = w - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    assert relative_error(after.reshape(4, 12), torch.from_numpy(w)) < ORACLE_RTOL


@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 1, 1, 1)])
def test_one_entry_a_row_is_adam(shape: tuple[int, ...]) -> None:
    ours, theirs = train(shape, RowAdam), train(shape, torch.optim.Adam)
    assert relative_error(ours[2], theirs[2]) < ORACLE_RTOL


def test_a_row_keeps_its_direction_and_no_scale() -> None:
    weight = nn.Parameter(torch.zeros(2, 3))
    weight.grad = torch.tensor([[3.0, 0.0, 4.0], [0.0, 300.0, 400.0]])
    RowAdam([weight], lr=1.0).step()
    rms = 5 / 3**0.5
    wanted = -torch.tensor([[3.0, 0.0, 4.0], [0.0, 3.0, 4.0]]) / rms
    assert torch.allclose(weight.detach(), wanted)


def test_closure_and_missing_gradients() -> None:
    used, unused = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = RowAdam([used, unused], lr=0.1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = used.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4
    assert torch.equal(unused, torch.ones(2, 2))
    assert torch.allclose(used, torch.full((2, 2), 0.9))


def test_resumes_exactly() -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(3, 4), nn.Linear(3, 4)
    optimizers = [RowAdam(model.parameters(), lr=0.1) for model in (first, second)]
    grads = torch.randn(6, 4, 3)

    def step(which: int, grad: torch.Tensor) -> None:
        model = (first, second)[which]
        model.weight.grad, model.bias.grad = grad.clone(), grad.sum(1)
        optimizers[which].step()

    for grad in grads[:3]:
        step(0, grad)
    second.load_state_dict(first.state_dict())
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    for grad in grads[3:]:
        step(0, grad)
        step(1, grad)
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)


@pytest.mark.parametrize("tract", ["tract", "vanilla"])
@pytest.mark.parametrize(
    ("own", "kind", "lr"), [("sgd", torch.optim.SGD, 0.7), ("row-adam", RowAdam, 0.02)]
)
def test_the_first_layer_alone_is_trained_so(
    tract: str, own: str, kind: type[torch.optim.Optimizer], lr: float
) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    apply(f"{tract}+{own}", model, torch.randn(8, 3))
    setting = replace(CONFIG, optimizer="adam", lr=0.02, first_layer_lr=0.7).setting
    optimizer = METHODS[f"{tract}+{own}"].optimizer(model, setting)
    assert isinstance(optimizer, ChainedOptimizer)
    first, rest = optimizer.optimizers
    assert type(first) is kind
    assert type(rest) is torch.optim.Adam
    assert [id(p) for g in first.param_groups for p in g["params"]] == [
        *map(id, model[0].parameters())
    ]
    assert [id(p) for g in rest.param_groups for p in g["params"]] == [
        *map(id, model[2].parameters())
    ]
    assert [g["lr"] for g in optimizer.param_groups] == [lr, 0.02]


def test_nothing_but_a_first_layer() -> None:
    model = nn.Linear(3, 4)
    apply("vanilla+row-adam", model, torch.randn(8, 3))
    setting = replace(CONFIG, optimizer="adam").setting
    assert type(METHODS["vanilla+row-adam"].optimizer(model, setting)) is RowAdam
