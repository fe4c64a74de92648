"""Every optimizer steps with TrAct's gradient, whatever else it does with it.

For each one a model under TrAct is trained next to a plain model whose first gradient
is multiplied by (XᵀX/b + λI)⁻¹ by hand, between the backward and the step.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import schedulefree
import timm.optim
import torch
from torch import Tensor, nn

import trainact
from tests.integrations import images
from tests.integrations.images import weights
from tests.tolerances import ORACLE_RTOL, relative_error

NUM_IMAGES = 48


def make_timm(name: str) -> Callable[[nn.Module], torch.optim.Optimizer]:
    def make(model: nn.Module) -> torch.optim.Optimizer:
        return timm.optim.create_optimizer_v2(
            model, opt=name, lr=1e-2, weight_decay=0.05
        )

    return make


def schedule_free(model: nn.Module) -> torch.optim.Optimizer:
    optimizer = schedulefree.AdamWScheduleFree(model.parameters(), lr=1e-2)
    optimizer.train()
    return optimizer


def first_by_sgd(model: nn.Module) -> torch.optim.Optimizer:
    """Two optimizers in one: as the paper's "TrAct w/ SGD" has it."""
    first = list(model[0].parameters())
    rest = list(model[1:].parameters())
    groups = [{"params": first, "lr": 0.05}, {"params": rest}]
    return torch.optim.SGD(groups, lr=0.01, momentum=0.9)


NAMES = [
    "sgd",
    "adamw",
    "lamb",
    "lars",
    "larc",
    "lion",
    "adopt",
    "adafactorbv",
    "madgrad",
    "nadamw",
    "kron",
    "laprop",
    "mars",
    "lookahead_adamw",
    "cadamw",
    "muon",
]
REGISTERED = timm.optim.list_optimizers()
OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    **{
        name: make_timm(name)
        for name in NAMES
        if name.removeprefix("lookahead_") in REGISTERED  # an older timm has fewer
    },
    "schedule-free": schedule_free,
    "groups": first_by_sgd,
}
pytestmark = pytest.mark.filterwarnings("ignore:.*'opt_einsum' installed")


def precondition(model: nn.Module, x: Tensor) -> None:
    rows = nn.functional.unfold(x, 3, padding=1, stride=2).mT.flatten(0, 1)
    gram = rows.mT @ rows / len(rows)
    damped = gram + 0.1 * torch.eye(len(gram), dtype=gram.dtype)
    grad = model[0].weight.grad
    grad.copy_(torch.linalg.solve(damped, grad.flatten(1).mT).mT.reshape(grad.shape))


def train(make: Any, way: str) -> Tensor:
    """How far the first weight moved; way is tract, deferred, by hand, or plain."""
    model = images.network().double()
    before = model[0].weight.detach().clone()
    if way in {"tract", "deferred"}:
        trainact.apply(model)
    torch.manual_seed(0)
    optimizer = make(model)
    x, y = images.digits(NUM_IMAGES)
    x = x.double()
    block = trainact.deferred(model, optimizer) if way == "deferred" else nullcontext()
    sizes = [8, 40] if way == "deferred" else [48]
    with block:
        for _ in range(4):
            optimizer.zero_grad()
            for part_x, part_y in zip(x.split(sizes), y.split(sizes), strict=True):
                loss = nn.functional.cross_entropy(model(part_x), part_y)
                (loss * len(part_y) / len(y)).backward()
            if way == "by hand":
                precondition(model, x)
            optimizer.step()
    return model[0].weight.detach() - before


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_the_optimizer_sees(name: str) -> None:
    make = OPTIMIZERS[name]
    truth = train(make, "by hand")
    for way in ("tract", "deferred"):
        assert relative_error(train(make, way), truth) < 100 * ORACLE_RTOL, way
    assert relative_error(train(make, "plain"), truth) > 0.05


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim has no Muon")
def test_muon_for_the_rest() -> None:
    """torch's Muon takes matrices only; the first layer is not for it anyway."""
    model = trainact.apply(images.network().double())
    first, rest = trainact.split_parameters(model)
    matrices = [p for p in rest if p.ndim == 2]
    others = first + [p for p in rest if p.ndim != 2]
    optimizers = [torch.optim.Muon(matrices), torch.optim.AdamW(others)]
    held = [p for o in optimizers for g in o.param_groups for p in g["params"]]
    assert {id(p) for p in held} == {id(p) for p in model.parameters()}
    x, y = (t[:NUM_IMAGES] for t in images.digits(NUM_IMAGES))
    losses = []
    with trainact.deferred(model, optimizers):
        for _ in range(10):
            for part_x, part_y in zip(x.double().chunk(2), y.chunk(2), strict=True):
                loss = nn.functional.cross_entropy(model(part_x), part_y) / 2
                loss.backward()
            losses.append(loss.item())
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    assert losses[-1] < losses[0]
    assert weights(model).isfinite().all()
