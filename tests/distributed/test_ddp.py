"""DDP with sync: R ranks with a share of the batch each are one process with all."""

from __future__ import annotations

import copy
import pickle
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from tests.distributed import problems
from tests.distributed.processes import run
from tests.tolerances import FLOAT32_PROMISE, ORACLE_RTOL, relative_error

RTOL = {torch.float64: ORACLE_RTOL, torch.float32: FLOAT32_PROMISE}
SHARDS = {
    "equal": [[6, 6], [4, 4, 4]],
    "unequal": [[9, 3], [1, 8, 3]],
    "one empty": [[0, 12], [5, 0, 7]],
}


def train_ddp(
    kind: str,
    dtype: torch.dtype,
    sizes: list[int],
    sync: Any = True,
    steps: int = 5,
    relative: bool = False,
    **options: Any,
) -> torch.Tensor:
    if sync == "group":
        sync = dist.new_group()
    model = problems.make_model(kind, dtype, sync=sync, relative=relative)
    before = model[0].weight.detach().clone()
    whole = problems.make_batch(kind, dtype, sizes)
    x, y = (problems.shard(t, sizes) for t in whole)
    wrapped = DistributedDataParallel(model, **options)
    optimizer = problems.sgd(model)
    for _ in range(steps):
        # DDP takes the mean over ranks of what is already this rank's share.
        loss = problems.loss_of(wrapped, x, y, sum(sizes)) * len(sizes)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model[0].weight.detach() - before


def train_all(sizes: list[int], sync: Any) -> dict[Any, torch.Tensor]:
    return {case: train_ddp(*case, sizes, sync) for case in problems.ALL}


@pytest.mark.parametrize(
    ("num_ranks", "shards", "sync"),
    [
        (2, "equal", True),
        (2, "unequal", "group"),
        (2, "one empty", True),
        (3, "equal", "group"),
        (3, "unequal", True),
        (3, "one empty", "group"),
    ],
)
def test_ranks_are_one_process(num_ranks: int, shards: str, sync: Any) -> None:
    sizes = SHARDS[shards][num_ranks - 2]
    moves = run(num_ranks, train_all, sizes, sync)
    for kind, dtype in problems.ALL:
        truth = problems.train_alone(kind, dtype, sizes)
        errors = [relative_error(move[kind, dtype], truth) for move in moves]
        assert max(errors) < RTOL[dtype], (kind, dtype, errors)


def train_relative(sizes: list[int]) -> dict[str, torch.Tensor]:
    return {
        kind: train_ddp(kind, torch.float64, sizes, relative=True)
        for kind in problems.FIRST
    }


def test_a_relative_damping_is_of_all_ranks_inputs() -> None:
    sizes = [9, 3]
    moves = run(2, train_relative, sizes)
    for kind in problems.FIRST:
        truth = problems.train_alone(kind, torch.float64, sizes, relative=True)
        for move in moves:
            assert relative_error(move[kind], truth) < ORACLE_RTOL, kind
        absolute = problems.train_alone(kind, torch.float64, sizes)
        assert relative_error(absolute, truth) > 1e-3, kind


def one_step(sizes: list[int], sync: bool) -> dict[str, torch.Tensor]:
    return {k: train_ddp(k, torch.float32, sizes, sync, 1) for k in problems.FIRST}


@pytest.mark.parametrize("sizes", [[6, 6], [4, 4, 4]], ids=str)
def test_on_heterogeneous_ranks_local_statistics_are_off(sizes: list[int]) -> None:
    local, shared = (
        run(len(sizes), one_step, sizes, sync)[0] for sync in (False, True)
    )
    for kind in problems.FIRST:
        truth = problems.train_alone(kind, torch.float32, sizes, steps=1)
        off, exact = (relative_error(m[kind], truth) for m in (local, shared))
        assert off > 0.1, (kind, off)
        assert exact < FLOAT32_PROMISE, (kind, exact)


OPTIONS: list[dict[str, Any]] = [
    {"find_unused_parameters": True},
    {"static_graph": True},
    {"gradient_as_bucket_view": True},
    {"bucket_cap_mb": 0.0001},
]


def train_options(sizes: list[int]) -> list[torch.Tensor]:
    return [train_ddp("conv", torch.float64, sizes, **one) for one in OPTIONS]


def test_options_of_ddp() -> None:
    sizes = [9, 3]
    truth = problems.train_alone("conv", torch.float64, sizes)
    for moves in run(2, train_options, sizes):
        for option, move in zip(OPTIONS, moves, strict=True):
            assert relative_error(move, truth) < ORACLE_RTOL, option


def train_no_sync(sizes: list[int]) -> torch.Tensor:
    model = problems.make_model("conv", torch.float64, sync=True)
    before = model[0].weight.detach().clone()
    whole = problems.make_batch("conv", torch.float64, sizes)
    x, y = (problems.shard(t, sizes).tensor_split(3) for t in whole)
    wrapped = DistributedDataParallel(model)
    optimizer = problems.sgd(model)
    for _ in range(5):
        for k in range(3):
            with wrapped.no_sync() if k < 2 else nullcontext():
                loss = problems.loss_of(wrapped, x[k], y[k], sum(sizes))
                (loss * len(sizes)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model[0].weight.detach() - before


def test_no_sync_is_accumulation_in_one_process() -> None:
    sizes = [9, 3]
    truth = problems.train_alone("conv", torch.float64, sizes, micro_batches=3)
    for move in run(2, train_no_sync, sizes):
        assert relative_error(move, truth) < ORACLE_RTOL


def join_uneven(sync: bool) -> tuple[str, torch.Tensor]:
    model = problems.make_model("conv", torch.float32, sync=sync)
    wrapped = DistributedDataParallel(model)
    message = ""
    try:
        with wrapped.join():
            for _ in range(1 + dist.get_rank()):
                wrapped(torch.randn(4, *problems.FIRST["conv"][1])).sum().backward()
    except RuntimeError as error:
        message = str(error)
    return message, model[0].weight.grad


def test_join_is_refused_with_sync_and_works_without() -> None:
    for message, grad in run(2, join_uneven, True):
        assert "does not work inside DDP's join()" in message
        assert grad is None
    for message, grad in run(2, join_uneven, False):
        assert not message
        assert grad.isfinite().all()


def subgroups() -> list[torch.Tensor]:
    """Two replicas of one rank pair each: statistics stay within the pair."""
    pairs = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    pair = pairs[dist.get_rank() // 2]
    model = problems.make_model("conv", torch.float64, sync=pair)
    x, y = problems.make_batch("conv", torch.float64, [3, 3, 3, 3])
    wrapped = DistributedDataParallel(model, process_group=pair)
    mine = (problems.shard(t, [3, 3, 3, 3]) for t in (x, y))
    (problems.loss_of(wrapped, *mine, 6) * 2).backward()
    whole = problems.make_model("conv", torch.float64)
    half = slice(0, 6) if dist.get_rank() < 2 else slice(6, 12)
    problems.loss_of(whole, x[half], y[half], 6).backward()
    return [model[0].weight.grad, whole[0].weight.grad]


def test_a_group_of_some_ranks() -> None:
    for found, truth in run(4, subgroups):
        assert relative_error(found, truth) < ORACLE_RTOL


def copies() -> list[tuple[str, Any, torch.Tensor]]:
    sizes = [9, 3]
    x, y = (
        problems.shard(t, sizes)
        for t in problems.make_batch("conv", torch.float64, sizes)
    )
    found = []
    for sync in (True, dist.new_group()):
        model = problems.make_model("conv", torch.float64, sync=sync)
        problems.loss_of(model, x, y, 12).backward()  # sums have been under way
        for name, copied in {
            "deepcopy": copy.deepcopy(model),
            "ema": AveragedModel(model).module,
            "pickle": pickle.loads(pickle.dumps(model)),
        }.items():
            kept = copied[0].sync == model[0].sync
            copied.zero_grad()
            problems.loss_of(copied, x, y, sum(sizes)).backward()
            grad = copied[0].weight.grad
            dist.all_reduce(grad)
            found.append((name, kept, grad))
    return found


def test_copies_share_statistics_too() -> None:
    model = problems.make_model("conv", torch.float64)
    problems.loss_of(
        model, *problems.make_batch("conv", torch.float64, [9, 3]), 12
    ).backward()
    for found in run(2, copies):
        kept = [kept for _, kept, _ in found]
        # What is loaded again has the default group: groups end with their processes.
        assert kept == [True, True, True, True, True, False]
        for name, _, grad in found:
            assert relative_error(grad, model[0].weight.grad) < ORACLE_RTOL, name


def transform() -> str:
    model = problems.make_model("conv", torch.float32, sync=True)
    x, _ = problems.make_batch("conv", torch.float32, [12])
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.func.functional_call(model, parameters, (x,)).sum()

    with pytest.raises(RuntimeError) as caught:
        torch.func.grad(loss)(parameters)
    return str(caught.value)


def test_torch_func_is_refused() -> None:
    for message in run(2, transform):
        assert "use sync=False there" in message
