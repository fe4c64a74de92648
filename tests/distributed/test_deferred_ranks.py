"""`deferred` over ranks: micro-batches of R ranks are one batch of one process."""

from __future__ import annotations

import warnings
from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.debug import CommDebugMode
from torch.nn.parallel import DistributedDataParallel

import trainact
from tests.distributed import problems
from tests.distributed.processes import run
from tests.tolerances import FLOAT32_PROMISE, ORACLE_RTOL, relative_error

RTOL = {torch.float64: ORACLE_RTOL, torch.float32: FLOAT32_PROMISE}
MICRO_BATCHES = 3


def expected_collectives(kind: str) -> list[str]:
    """Of one step: the row counts, then the rows if they are few, else the sums."""
    return ["all_gather", "all_gather" if "few rows" in kind else "all_reduce"]


def parts(sizes: list[int], x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    xs, ys = (problems.shard(t, sizes).tensor_split(MICRO_BATCHES) for t in (x, y))
    return list(zip(xs, ys, strict=True))


def train_ddp(
    kind: str,
    dtype: torch.dtype,
    sizes: list[int],
    accumulates: bool,
    clip: float | None,
) -> Tensor:
    model = problems.make_model(kind, dtype)
    before = model[0].weight.detach().clone()
    x, y = problems.make_batch(kind, dtype, sizes)
    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = problems.sgd(model)
    with (
        problems.counted_collectives() as names,
        trainact.deferred(wrapped, optimizer) as step,
    ):
        for _ in range(5):
            for k, (part_x, part_y) in enumerate(parts(sizes, x, y)):
                waits = accumulates and k + 1 < MICRO_BATCHES
                with wrapped.no_sync() if waits else nullcontext():
                    loss = problems.loss_of(wrapped, part_x, part_y, len(x))
                    (loss * len(sizes)).backward()
            if clip is not None:
                step.precondition()
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
    assert names == 5 * expected_collectives(kind), (kind, names)
    return model[0].weight.detach() - before


def train_all(
    sizes: list[int], accumulates: bool, clip: float | None
) -> dict[tuple[str, torch.dtype], Tensor]:
    return {case: train_ddp(*case, sizes, accumulates, clip) for case in problems.ALL}


@pytest.mark.parametrize(
    ("sizes", "accumulates", "clip"),
    [
        ([6, 6], True, None),
        ([9, 1, 2], True, 0.3),
        ([9, 1, 2], False, None),
        ([0, 12], True, None),
    ],
)
def test_ddp_is_one_process(
    sizes: list[int], accumulates: bool, clip: float | None
) -> None:
    moves = run(len(sizes), train_all, sizes, accumulates, clip)
    for case in problems.ALL:
        truth = problems.train_alone(*case, sizes, clip=clip)
        errors = [relative_error(move[case], truth) for move in moves]
        assert max(errors) < RTOL[case[1]], (case, errors)


class Sometimes(nn.Module):
    """Runs the layer under TrAct on some ranks only."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.bias = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor, runs: bool) -> Tensor:
        return (self.inner(x) if runs else 0) + self.bias


def layer_on_one_rank() -> Tensor:
    model = Sometimes(problems.make_model("conv", torch.float64))
    x, _ = problems.make_batch("conv", torch.float64, [12])
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    with trainact.deferred(wrapped, problems.sgd(model)):
        (wrapped(x, dist.get_rank() == 1).sum() * dist.get_world_size()).backward()
    return model.inner[0].weight.grad


def test_a_rank_that_never_ran_the_layer_takes_part_in_the_sum() -> None:
    model = problems.make_model("conv", torch.float64)
    x, _ = problems.make_batch("conv", torch.float64, [12])
    model(x).sum().backward()
    for grad in run(2, layer_on_one_rank):
        assert relative_error(grad, model[0].weight.grad) < ORACLE_RTOL


def with_a_penalty() -> Tensor:
    model = problems.make_model("conv", torch.float64)
    x, y = problems.make_batch("conv", torch.float64, [9, 3])
    wrapped = DistributedDataParallel(model)
    with trainact.deferred(wrapped, problems.sgd(model)):
        for k, (part_x, part_y) in enumerate(parts([9, 3], x, y)):
            with nullcontext() if k + 1 == MICRO_BATCHES else wrapped.no_sync():
                loss = problems.loss_of(wrapped, part_x, part_y, len(x)) * 2
                (loss + model[0].weight.pow(4).sum()).backward()
    return model[0].weight.grad


def test_a_penalty_is_not_preconditioned() -> None:
    model = problems.make_model("conv", torch.float64)
    x, y = problems.make_batch("conv", torch.float64, [9, 3])
    problems.loss_of(model, x, y, len(x)).backward()
    weight = model[0].weight
    truth = weight.grad + MICRO_BATCHES * 4 * weight.detach().pow(3)
    for grad in run(2, with_a_penalty):
        assert relative_error(grad, truth) < ORACLE_RTOL


def left_in_the_middle() -> tuple[list[str], bool]:
    """Rank 0 leaves the block with rows of its own, rank 1 with nothing."""
    model = problems.make_model("conv", torch.float64)
    x, _ = problems.make_batch("conv", torch.float64, [6])
    wrapped = DistributedDataParallel(model)
    optimizer = problems.sgd(model)
    with (
        warnings.catch_warnings(record=True) as caught,
        trainact.deferred(wrapped, optimizer),
    ):
        warnings.simplefilter("always")
        for _ in range(2):  # DDP exchanges its buckets once more in the second forward
            wrapped(x).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        with wrapped.no_sync():
            if dist.get_rank() == 0:
                wrapped(x).sum().backward()
    trainact.remove(model)
    messages = [str(warning.message) for warning in caught]
    if dist.get_rank() == 1:
        return messages, model[0].weight.grad is None
    left = model[0].weight.grad.clone()
    model.zero_grad()
    model(x).sum().backward()
    return messages, torch.equal(left, model[0].weight.grad)


def test_a_window_that_one_rank_began_is_left_with_a_warning() -> None:
    (first, is_ordinary), (second, has_none) = run(2, left_in_the_middle)
    assert len(first) == 1
    assert "precondition() on every rank" in first[0]
    assert not second
    assert is_ordinary
    assert has_none


def bare_model() -> str:
    model = problems.make_model("linear", torch.float32)
    wrapped = DistributedDataParallel(model)
    x, _ = problems.make_batch("linear", torch.float32, [6, 6])
    with (
        trainact.deferred(model, problems.sgd(model)),
        pytest.raises(RuntimeError) as caught,
    ):
        wrapped(x)
    return str(caught.value)


def test_a_bare_model_under_ddp_is_refused() -> None:
    for message in run(2, bare_model):
        assert "pass the DistributedDataParallel model" in message


def train_fsdp(
    kind: str, dtype: torch.dtype, sizes: list[int], how: str, clip: float | None
) -> tuple[Tensor, int]:
    model = problems.make_model(kind, dtype)
    before = model[0].weight.detach().clone()
    x, y = problems.make_batch(kind, dtype, sizes)
    fully_shard(model[0])
    fully_shard(model)
    optimizer = problems.sgd(model)
    num_collectives = 0
    with trainact.deferred(model, optimizer) as step:
        for _ in range(5):
            for k, (part_x, part_y) in enumerate(parts(sizes, x, y)):
                if how == "late":
                    model.set_requires_gradient_sync(k + 1 == MICRO_BATCHES)
                loss = problems.loss_of(model, part_x, part_y, len(x))
                (loss * len(sizes)).backward()
            with CommDebugMode() as mode:
                step.precondition()
            num_collectives += mode.get_total_counts()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
    return model[0].weight.full_tensor().detach() - before, num_collectives


def train_all_fsdp(
    sizes: list[int], how: str, clip: float | None
) -> dict[tuple[str, torch.dtype], tuple[Tensor, int]]:
    return {case: train_fsdp(*case, sizes, how, clip) for case in problems.ALL}


@pytest.mark.slow
@problems.needs_exact_fsdp2
# 6 or 7 output channels: on 4 ranks 2 + 2 + 2 + 0, which splits convolution groups too.
@pytest.mark.parametrize(
    ("sizes", "how", "clip"),
    [
        ([6, 6], "late", None),
        ([9, 3], "each", 0.3),
        ([3, 0, 5, 4], "late", None),
    ],
)
def test_fsdp2_is_one_process(sizes: list[int], how: str, clip: float | None) -> None:
    moves = run(len(sizes), train_all_fsdp, sizes, how, clip)
    for case in problems.ALL:
        truth = problems.train_alone(*case, sizes, clip=clip)
        errors = [relative_error(move[case][0], truth) for move in moves]
        assert max(errors) < RTOL[case[1]], (case, errors)
        # What the statistics need and nothing more: the weight is not gathered.
        needed = 5 * len(expected_collectives(case[0]))
        assert [move[case][1] for move in moves] == [needed] * len(sizes), case
