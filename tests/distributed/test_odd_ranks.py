"""Layers that make their weight of others: R ranks with sync are one process."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

import trainact
from tests.distributed import problems
from tests.distributed.processes import run
from tests.odd import ODD
from tests.tolerances import ORACLE_RTOL, relative_error

SIZES = [3, 1]


def train(kind: str, how: str) -> dict[str, Tensor]:
    """How far each parameter of the first layer has moved after three steps."""
    torch.manual_seed(3)
    case, size = ODD[kind], sum(SIZES)
    first = case.layer(torch.float64)
    x = torch.randn(size, *case.shape[1:], dtype=torch.float64)
    y = torch.randn(size, 2, dtype=torch.float64)
    rest = [nn.Tanh(), nn.Flatten(), nn.Linear(first(x[:1]).numel(), 2).double()]
    model = trainact.apply(nn.Sequential(first, *rest), layer="0", sync=True)
    if how == "alone":
        wrapped, ranks = model, 1
    else:
        x, y = (problems.shard(t, SIZES) for t in (x, y))
        wrapped, ranks = model, dist.get_world_size()
    if how == "DDP":
        wrapped = DistributedDataParallel(model)
    if how == "FSDP":
        fully_shard(first)
        fully_shard(model)
        assert isinstance(first, FSDPModule)
    assert isinstance(first, trainact.TrActLayer)
    optimizer, before = problems.sgd(model), values(first)
    for _ in range(3):
        (problems.loss_of(wrapped, x, y, size) * ranks).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: value - before[name] for name, value in values(first).items()}


def values(layer: nn.Module) -> dict[str, Tensor]:
    return {
        name: getattr(p, "full_tensor", lambda p=p: p)().detach().clone()
        for name, p in layer.named_parameters()
    }


@pytest.mark.parametrize("how", ["DDP", "FSDP"])
@pytest.mark.parametrize(
    "kind", ["centred linear", "std conv, same", "scaled std conv, dual", "weight norm"]
)
def test_ranks_are_one_process(kind: str, how: str) -> None:
    if "std" in kind:
        pytest.importorskip("timm")
    truth = train(kind, "alone")
    for moves in run(len(SIZES), train, kind, how):
        assert moves.keys() == truth.keys()
        for name, value in truth.items():
            assert relative_error(moves[name], value) < ORACLE_RTOL, name
