"""DDP with sync: R ranks with a share of the batch each are one process with all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests.distributed import problems
from tests.distributed.processes import run
from tests.tolerances import FLOAT32_PROMISE, ORACLE_RTOL, relative_error

RTOL = {torch.float64: ORACLE_RTOL, torch.float32: FLOAT32_PROMISE}
SHARDS = {
    "equal": [[6, 6], [4, 4, 4]],
    "unequal": [[9, 3], [1, 8, 3]],
    "one empty": [[0, 12], [5, 0, 7]],
}
ALL = [(kind, dtype) for kind in problems.FIRST for dtype in RTOL]


def train_ddp(
    kind: str,
    dtype: torch.dtype,
    sizes: list[int],
    sync: Any = True,
    steps: int = 5,
    **options: Any,
) -> torch.Tensor:
    if sync == "group":
        sync = dist.new_group()
    model = problems.make_model(kind, dtype, sync=sync)
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
    return {case: train_ddp(*case, sizes, sync) for case in ALL}


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("shards", SHARDS)
@pytest.mark.parametrize("sync", [True, "group"])
def test_ranks_are_one_process(num_ranks: int, shards: str, sync: Any) -> None:
    sizes = SHARDS[shards][num_ranks - 2]
    moves = run(num_ranks, train_all, sizes, sync)
    for kind, dtype in ALL:
        truth = problems.train_alone(kind, dtype, sizes)
        errors = [relative_error(move[kind, dtype], truth) for move in moves]
        print(kind, dtype, errors)
        assert max(errors) < RTOL[dtype], (kind, dtype, errors)
