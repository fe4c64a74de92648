"""FSDP2 and HSDP with sync: sharded training is one process with the whole batch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard

import trainact
from tests.distributed import problems
from tests.distributed.processes import run
from tests.tolerances import FLOAT32_PROMISE, ORACLE_RTOL, relative_error

RTOL = {torch.float64: ORACLE_RTOL, torch.float32: FLOAT32_PROMISE}


def make_sharded(
    kind: str, dtype: torch.dtype, mesh: Any, sync: Any = True
) -> tuple[nn.Module, torch.optim.SGD]:
    model = problems.make_model(kind, dtype, sync=sync)
    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model, problems.sgd(model)


def steps(
    model: nn.Module,
    optimizer: torch.optim.SGD,
    batch: tuple[Tensor, Tensor],
    sizes: list[int],
    number: int = 5,
) -> None:
    x, y = (problems.shard(t, sizes) for t in batch)
    for _ in range(number):
        (problems.loss_of(model, x, y, sum(sizes)) * len(sizes)).backward()
        optimizer.step()
        optimizer.zero_grad()


def full_weight(model: nn.Module) -> Tensor:
    return model[0].weight.full_tensor().detach()


def train_sharded(
    sizes: list[int], dims: tuple[int, ...]
) -> dict[tuple[str, torch.dtype], Tensor]:
    names = ("replicate", "shard")[-len(dims) :]
    mesh = init_device_mesh("cpu", dims, mesh_dim_names=names)
    moves = {}
    for kind, dtype in problems.ALL:
        model, optimizer = make_sharded(kind, dtype, mesh)
        before = full_weight(model)
        steps(model, optimizer, problems.make_batch(kind, dtype, sizes), sizes)
        moves[kind, dtype] = full_weight(model) - before
    return moves


# 6 or 7 output channels are not divisible by 4, nor 7 by 2.
@problems.needs_exact_fsdp2
@pytest.mark.parametrize(
    ("sizes", "dims"),
    [([9, 3], (2,)), ([3, 0, 5, 4], (4,)), ([3, 0, 5, 4], (2, 2))],
    ids=["2 ranks", "4 ranks", "2 x 2 ranks"],
)
def test_shards_are_one_process(sizes: list[int], dims: tuple[int, ...]) -> None:
    moves = run(len(sizes), train_sharded, sizes, dims)
    for case in problems.ALL:
        truth = problems.train_alone(*case, sizes)
        errors = [relative_error(move[case], truth) for move in moves]
        assert max(errors) < RTOL[case[1]], (case, errors)


def train_deferred_hsdp(sizes: list[int]) -> Tensor:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    model, optimizer = make_sharded("grouped conv", torch.float64, mesh, sync=False)
    before = full_weight(model)
    batch = problems.make_batch("grouped conv", torch.float64, sizes)
    with trainact.deferred(model, optimizer):
        steps(model, optimizer, batch, sizes)
    return full_weight(model) - before


def test_deferred_sums_over_both_dimensions_of_the_mesh() -> None:
    sizes = [3, 0, 5, 4]
    truth = problems.train_alone("grouped conv", torch.float64, sizes)
    for move in run(4, train_deferred_hsdp, sizes):
        assert relative_error(move, truth) < ORACLE_RTOL


def train_zeroed_by_the_model(sizes: list[int]) -> Tensor:
    """The optimizer does not hear of it: its zero_grad is never called."""
    mesh = init_device_mesh("cpu", (2,))
    model, optimizer = make_sharded("conv", torch.float64, mesh, sync=False)
    before = full_weight(model)
    batch = problems.make_batch("conv", torch.float64, sizes)
    x, y = (problems.shard(t, sizes) for t in batch)
    with trainact.deferred(model, optimizer):
        for _ in range(5):
            (problems.loss_of(model, x, y, sum(sizes)) * len(sizes)).backward()
            optimizer.step()
            model.zero_grad()
    return full_weight(model) - before


def test_deferred_starts_anew_where_the_model_zeroes_the_gradient() -> None:
    sizes = [9, 3]
    truth = problems.train_alone("conv", torch.float64, sizes)
    for move in run(2, train_zeroed_by_the_model, sizes):
        assert relative_error(move, truth) < ORACLE_RTOL


def step_with_divided_rows() -> tuple[str, Tensor]:
    """FSDP2 may be told to divide another dimension than the output channels."""
    model = problems.make_model("grouped conv", torch.float64)
    for module in (model[0], model):
        fully_shard(module, shard_placement_fn=lambda p: Shard(min(1, p.ndim - 1)))
    before, optimizer = full_weight(model), problems.sgd(model)
    x, y = problems.make_batch("grouped conv", torch.float64, [4])
    with trainact.deferred(model, optimizer):
        problems.loss_of(model, x, y, 4).backward()
        with pytest.raises(RuntimeError) as caught:
            optimizer.step()
        optimizer.zero_grad()
    return str(caught.value), full_weight(model) - before


def test_deferred_refuses_rows_that_are_divided() -> None:
    for message, move in run(2, step_with_divided_rows):
        assert "across the entries of a row: shard over output channels" in message
        assert not move.any()


def save_and_resume(folder: Path, sizes: list[int]) -> tuple[Tensor, list[str]]:
    batch = problems.make_batch("conv", torch.float64, sizes)
    mesh = init_device_mesh("cpu", (2,))
    model, optimizer = make_sharded("conv", torch.float64, mesh)
    before = full_weight(model)
    steps(model, optimizer, batch, sizes, number=2)
    weights, moments = get_state_dict(model, optimizer)
    names = sorted(weights)
    dcp.save({"model": weights, "optimizer": moments}, checkpoint_id=folder)

    model, optimizer = make_sharded("conv", torch.float64, mesh)
    weights, moments = get_state_dict(model, optimizer)
    dcp.load({"model": weights, "optimizer": moments}, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=moments)
    steps(model, optimizer, batch, sizes, number=3)
    return full_weight(model) - before, names


def test_save_and_resume(tmp_path: Path) -> None:
    sizes = [9, 3]
    truth = problems.train_alone("conv", torch.float64, sizes)
    for move, names in run(2, save_and_resume, tmp_path, sizes):
        assert relative_error(move, truth) < ORACLE_RTOL
        assert names == ["0.bias", "0.weight", "3.bias", "3.weight"]


def apply_after_sharding() -> tuple[str, Tensor]:
    sizes = [9, 3]
    model = trainact.remove(problems.make_model("conv", torch.float64))
    twin = copy.deepcopy(model)
    fully_shard(model[0])
    try:
        trainact.apply(model, layer="0")
        message = ""
    except ValueError as error:
        message = str(error)
    # A layer that is not a unit of its own keeps its class.
    fully_shard(twin)
    trainact.apply(twin, layer="0", sync=True)
    before = full_weight(twin)
    batch = problems.make_batch("conv", torch.float64, sizes)
    steps(twin, problems.sgd(twin), batch, sizes)
    return message, full_weight(twin) - before


def test_the_other_order_works_or_is_refused() -> None:
    truth = problems.train_alone("conv", torch.float64, [9, 3])
    for message, move in run(2, apply_after_sharding):
        assert "FSDPConv2d" in message, message
        assert relative_error(move, truth) < ORACLE_RTOL


def remove_from_sharded() -> str:
    mesh = init_device_mesh("cpu", (2,))
    model, _ = make_sharded("conv", torch.float64, mesh)
    with pytest.raises(ValueError, match="FSDPTrActConv2d") as caught:
        trainact.remove(model)
    return str(caught.value)


def test_removing_from_a_sharded_layer_is_refused() -> None:
    for message in run(2, remove_from_sharded):
        assert "undo that first" in message
