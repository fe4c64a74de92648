"""How often ranks talk to each other: once per call of the layer, not per pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.distributed import problems
from tests.distributed.processes import run
from tests.tolerances import ORACLE_RTOL, relative_error

SIZES = [5, 7]
KINDS = ["linear", "conv", "circular conv", "wide linear, few rows"]
# What one call costs: the sums, or the row counts and then the rows.
EXPECTED = {
    **{kind: ["all_reduce"] for kind in KINDS[:3]},
    KINDS[3]: ["all_gather", "all_gather"],
}


def plain(function: Callable[..., Tensor], *args: Any) -> Tensor:
    return function(*args)


RUNNERS: dict[str, Callable[..., Tensor]] = {
    "plain": plain,
    "non-reentrant": partial(checkpoint, use_reentrant=False),
    "reentrant": partial(checkpoint, use_reentrant=True),
}


class Keeper(nn.Module):
    """A normalisation whose result somebody holds on to, as a logger would."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        x = x / x.std()
        self.kept.append(x)
        return x


class Normalise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.std()


def before_layer(where: str) -> nn.Module:
    return {"direct": nn.Identity, "derived": Normalise, "kept": Keeper}[where]()


def gradient(
    kind: str, runner: str, where: str, calls: int = 1, autocast: bool = False
) -> tuple[Tensor, list[str]]:
    """The first layer's gradient, and the collectives that it took."""
    dtype = torch.float32 if autocast else torch.float64
    model = problems.make_model(kind, dtype, sync=True)
    x, y = (problems.shard(t, SIZES) for t in problems.make_batch(kind, dtype, SIZES))
    norm = before_layer(where)
    # The reentrant kind needs an input with a gradient.
    inputs = [(x + 2 * k).requires_grad_() for k in range(calls)]
    rest = model[1:]

    def region(*xs: Tensor) -> Tensor:
        return torch.stack([model[0](norm(one)) for one in xs]).sum(0)

    with problems.counted_collectives() as names:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            z = RUNNERS[runner](region, *inputs)
            loss = problems.loss_of(rest, z, y, sum(SIZES))
        loss.backward()
    assert model[0].weight.grad is not None
    return model[0].weight.grad, names


def gradients(cases: list[tuple[Any, ...]]) -> list[tuple[Tensor, list[str]]]:
    return [gradient(*case) for case in cases]


@pytest.mark.parametrize("where", ["direct", "derived", "kept"])
def test_checkpointing_changes_nothing(where: str) -> None:
    cases = [(kind, runner, where) for kind in KINDS for runner in RUNNERS]
    for results in run(2, gradients, cases):
        found = dict(zip(cases, results, strict=True))
        for (kind, runner, _), (grad, names) in found.items():
            truth, _ = found[kind, "plain", where]
            error = relative_error(grad, truth)
            assert error < ORACLE_RTOL, (kind, runner, error)
            assert names == EXPECTED[kind], (kind, runner, names)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_layer_called_twice_in_a_checkpointed_region(autocast: bool) -> None:
    cases = [
        (kind, runner, "derived", 2, autocast) for kind in KINDS for runner in RUNNERS
    ]
    for results in run(2, gradients, cases):
        found = dict(zip(cases, results, strict=True))
        for (kind, runner, *rest), (grad, names) in found.items():
            truth, _ = found[kind, "plain", *rest]
            error = relative_error(grad, truth)
            assert error < ORACLE_RTOL, (kind, runner, error)
            assert names == 2 * EXPECTED[kind], (kind, runner, names)


def nobody_has_a_row(kind: str) -> Tensor:
    model = problems.make_model(kind, torch.float64, sync=True)
    x, _ = problems.make_batch(kind, torch.float64, [0, 0])
    model(x).sum().backward()
    return model[0].weight.grad


@pytest.mark.parametrize("kind", ["conv", "wide linear, few rows"])
def test_an_empty_batch_on_all_ranks_trains_nothing(kind: str) -> None:
    for grad in run(2, nobody_has_a_row, kind):
        assert torch.equal(grad, torch.zeros_like(grad))


def with_an_extra_forward(kind: str) -> Tensor:
    """Rank 0 runs the model once more in each step, for a logger."""
    model = problems.make_model(kind, torch.float64, sync=True)
    x, y = (
        problems.shard(t, SIZES)
        for t in problems.make_batch(kind, torch.float64, SIZES)
    )
    for _ in range(3):
        if dist.get_rank() == 0:
            model(10 * x)
        model.zero_grad()
        problems.loss_of(model, x, y, sum(SIZES)).backward()
    return model[0].weight.grad


@pytest.mark.parametrize("kind", ["conv", "wide linear, few rows"])
def test_a_forward_that_only_one_rank_runs_takes_no_part(kind: str) -> None:
    model = problems.make_model(kind, torch.float64)
    x, y = problems.make_batch(kind, torch.float64, SIZES)
    problems.loss_of(model, x, y, sum(SIZES)).backward()
    total = sum(run(2, with_an_extra_forward, kind))
    assert relative_error(total, model[0].weight.grad) < ORACLE_RTOL


def silent_passes() -> list[str]:
    model = problems.make_model("conv", torch.float32, sync=True)
    x, _ = problems.make_batch("conv", torch.float32, SIZES)
    with problems.counted_collectives() as names:
        with torch.no_grad():
            model(x)
        with torch.inference_mode():
            model(x)
        model.eval()
        model(x).sum().backward()
        model.train()
        model[0].weight.requires_grad_(False)
        model(x).sum().backward()
    return names


def test_no_collective_without_a_weight_gradient() -> None:
    assert run(2, silent_passes) == [[], []]
