"""Cheaper statistics over ranks: refreshed together, averaged together."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from tests.distributed import problems
from tests.distributed.processes import run
from tests.tolerances import ORACLE_RTOL, relative_error
from trainact import Estimate

DTYPE = torch.float64
STEPS = 5
ESTIMATES = [Estimate(every=2), Estimate(decay=0.5), Estimate(2, 0.5)]
KINDS = ["linear", "linear, few rows", "conv", "grouped conv", "padding conv"]


def trained(
    model: nn.Module, first: Any, x: Tensor, y: Tensor, whole: int, share: int = 1
) -> Tensor:
    """How far the first weight moves when every step sees other inputs."""
    before = whole_weight(first)
    optimizer = problems.sgd(first)
    for step in range(STEPS):
        loss = problems.loss_of(model, (1 + step) * x, y, whole) * share
        loss.backward()
        optimizer.step()
        model.zero_grad()
    return whole_weight(first) - before


def whole_weight(layer: Any) -> Tensor:
    weight = layer.weight.detach()
    return weight.full_tensor() if hasattr(weight, "full_tensor") else weight.clone()


def alone(kind: str, estimate: Estimate, sizes: list[int]) -> Tensor:
    model = problems.make_model(kind, DTYPE, estimate=estimate)
    x, y = problems.make_batch(kind, DTYPE, sizes)
    return trained(model, model[0], x, y, len(x))


def sharded(model: nn.Module) -> nn.Module:
    fully_shard(model[0])
    return fully_shard(model)


def all_on_ranks(
    sizes: list[int],
    estimates: list[Estimate],
    wrap: Callable[[nn.Module], nn.Module] = DistributedDataParallel,
) -> list[Tensor]:
    moves = []
    for kind in KINDS:
        for estimate in estimates:
            model = problems.make_model(kind, DTYPE, sync=True, estimate=estimate)
            whole = problems.make_batch(kind, DTYPE, sizes)
            x, y = (problems.shard(t, sizes) for t in whole)
            wrapped = wrap(model)
            moves.append(trained(wrapped, model[0], x, y, sum(sizes), len(sizes)))
    return moves


@pytest.mark.parametrize("sizes", [[6, 6], [9, 3], [0, 12], [3, 0, 5]], ids=str)
def test_ranks_are_one_process(sizes: list[int]) -> None:
    cases = [(kind, estimate) for kind in KINDS for estimate in ESTIMATES]
    truths = [alone(*case, sizes) for case in cases]
    for moves in run(len(sizes), all_on_ranks, sizes, ESTIMATES):
        for case, move, truth in zip(cases, moves, truths, strict=True):
            assert relative_error(move, truth) < ORACLE_RTOL, case


@problems.needs_exact_fsdp2
def test_shards_are_one_process() -> None:
    sizes = [9, 3]
    cases = [(kind, estimate) for kind in KINDS for estimate in ESTIMATES]
    truths = [alone(*case, sizes) for case in cases]
    for moves in run(2, all_on_ranks, sizes, ESTIMATES, sharded):
        for case, move, truth in zip(cases, moves, truths, strict=True):
            assert relative_error(move, truth) < ORACLE_RTOL, case


def test_each_rank_samples_its_own_images() -> None:
    # Of equal shards every second image is every second image of the whole.
    sizes, estimate = [6, 6], Estimate(fraction=0.5)
    truths = [alone(kind, estimate, sizes) for kind in KINDS]
    for moves in run(2, all_on_ranks, sizes, [estimate]):
        for kind, move, truth in zip(KINDS, moves, truths, strict=True):
            assert relative_error(move, truth) < ORACLE_RTOL, kind


def counted(region: str, kind: str) -> tuple[list[str], Tensor]:
    """The collectives of seven calls, refreshed at every third."""
    estimate = Estimate(every=3)
    model = problems.make_model(kind, DTYPE, sync=True, estimate=estimate)
    sizes = [5, 7]
    x, y = (problems.shard(t, sizes) for t in problems.make_batch(kind, DTYPE, sizes))
    x.requires_grad_()  # for the reentrant kind of checkpoint
    call = model[0]
    if region != "plain":
        call = partial(checkpoint, call, use_reentrant=region == "reentrant")
    with problems.counted_collectives() as names:
        for step in range(7):
            z = call((1 + step) * x)
            problems.loss_of(model[1:], z, y, sum(sizes)).backward()
    return names, model[0].weight.grad


def all_counted(cases: list[tuple[str, str]]) -> list[tuple[list[str], Tensor]]:
    return [counted(*case) for case in cases]


def test_one_collective_for_each_refresh() -> None:
    kinds = ["conv", "linear, few rows", "wide linear, few rows"]
    regions = ["plain", "not reentrant", "reentrant"]
    cases = [(region, kind) for kind in kinds for region in regions]
    for results in run(2, all_counted, cases):
        found = dict(zip(cases, results, strict=True))
        for (region, kind), (names, grad) in found.items():
            assert names == 3 * ["all_reduce"], (region, kind)
            truth = found["plain", kind][1]
            assert relative_error(grad, truth) < ORACLE_RTOL, (region, kind)


def after_a_bad_step() -> list[Tensor]:
    """Gradients of three steps; in the second, rank 1 sees an inf."""
    estimate = Estimate(decay=0.5)
    model = problems.make_model("conv", DTYPE, sync=True, estimate=estimate)
    wrapped = DistributedDataParallel(model)
    sizes = [5, 7]
    whole = problems.make_batch("conv", DTYPE, sizes)
    x, y = (problems.shard(t, sizes) for t in whole)
    gradients = []
    for step in range(3):
        batch = (1 + step) * x
        if step == 1 and dist.get_rank() == 1:
            batch[0, 0, 0, 0] = torch.inf
        model.zero_grad()
        problems.loss_of(wrapped, batch, y, 6).backward()
        gradients.append(model[0].weight.grad.clone())
    return gradients


def test_a_bad_input_of_one_rank_is_in_no_rank_s_average() -> None:
    model = problems.make_model("conv", DTYPE, estimate=Estimate(decay=0.5))
    x, y = problems.make_batch("conv", DTYPE, [5, 7])
    truths = []
    for step in (0, 2):
        model.zero_grad()
        problems.loss_of(model, (1 + step) * x, y, 12).backward()
        truths.append(model[0].weight.grad.clone())
    for first, bad, third in run(2, after_a_bad_step):
        assert not bad.isfinite().all()
        assert relative_error(first, truths[0]) < ORACLE_RTOL
        assert relative_error(third, truths[1]) < ORACLE_RTOL
