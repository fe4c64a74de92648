"""What else trains on several ranks: compiled, scaled, mixed precision, parallel."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

import trainact
from tests.distributed import problems
from tests.distributed.processes import run
from tests.tolerances import (
    FLOAT32_PROMISE,
    ORACLE_RTOL,
    low_precision_rtol,
    relative_error,
)

SIZES = [9, 3]
COMPILED = ["linear", "conv", "linear, few rows", "wide linear, few rows"]


def train_compiled(kind: str, backend: str) -> tuple[Tensor, int]:
    torch._dynamo.reset()
    model = problems.make_model(kind, torch.float32, sync=True)
    before = model[0].weight.detach().clone()
    x, y = (
        problems.shard(t, SIZES)
        for t in problems.make_batch(kind, torch.float32, SIZES)
    )
    wrapped = DistributedDataParallel(model)
    graphs = torch._dynamo.utils.counters["stats"]
    compiled = torch.compile(wrapped, backend=backend)
    optimizer = problems.sgd(model)
    for step in range(5):
        (problems.loss_of(compiled, x, y, sum(SIZES)) * len(SIZES)).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step == 1:
            made = graphs["unique_graphs"]
    return model[0].weight.detach() - before, graphs["unique_graphs"] - made


def compile_all(backend: str) -> dict[str, tuple[Tensor, int]]:
    return {kind: train_compiled(kind, backend) for kind in COMPILED}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_ranks_are_one_process(backend: str) -> None:
    answers = run(2, compile_all, backend)
    for kind in COMPILED:
        truth = problems.train_alone(kind, torch.float32, SIZES)
        for answer in answers:
            move, recompiled = answer[kind]
            assert relative_error(move, truth) < FLOAT32_PROMISE, kind
            assert not recompiled, kind


def compile_whole() -> tuple[Tensor, str]:
    x, y = (
        problems.shard(t, SIZES)
        for t in problems.make_batch("conv", torch.float32, SIZES)
    )
    model = problems.make_model("conv", torch.float32, sync=True)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    problems.loss_of(compiled, x, y, sum(SIZES)).backward()
    dist.all_reduce(model[0].weight.grad)
    wide = problems.make_model("wide linear, few rows", torch.float32, sync=True)
    try:
        torch.compile(wide, fullgraph=True)(torch.randn(2, 110))
    except torch._dynamo.exc.Unsupported as error:
        return model[0].weight.grad, str(error)
    return model[0].weight.grad, ""


def test_one_graph_up_to_the_limit_and_a_refusal_above() -> None:
    model = problems.make_model("conv", torch.float32)
    batch = problems.make_batch("conv", torch.float32, SIZES)
    problems.loss_of(model, *batch, sum(SIZES)).backward()
    for grad, refusal in run(2, compile_whole):
        assert relative_error(grad, model[0].weight.grad) < FLOAT32_PROMISE
        assert "_in_backward" in refusal


def scaled_steps(deferred: bool) -> tuple[list[Tensor], list[float]]:
    """The second of three steps has an inf on rank 1 only."""
    model = problems.make_model("conv", torch.float32, sync=not deferred)
    wrapped = DistributedDataParallel(model)
    optimizer = problems.sgd(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=1000)
    x, y = (
        problems.shard(t, SIZES)
        for t in problems.make_batch("conv", torch.float32, SIZES)
    )
    weights, scales = [], []

    def step(x: Tensor) -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = problems.loss_of(wrapped, x, y, sum(SIZES)) * len(SIZES)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        weights.append(model[0].weight.detach().clone())
        scales.append(scaler.get_scale())

    spoilt = x.clone()
    if dist.get_rank() == 1:
        spoilt[0, 0, 0, 0] = torch.inf
    with trainact.deferred(wrapped, optimizer) if deferred else nullcontext():
        for batch in (x, spoilt, x):
            step(batch)
    return weights, scales


@pytest.mark.parametrize("deferred", [False, True])
def test_a_bad_step_of_one_rank_is_skipped_by_all(deferred: bool) -> None:
    moves = problems.train_alone("conv", torch.float32, SIZES, steps=2)
    start = problems.make_model("conv", torch.float32)[0].weight.detach()
    for weights, scales in run(2, scaled_steps, deferred):
        assert torch.equal(weights[0], weights[1])
        assert scales[0] == 2 * scales[1] == 2 * scales[2]
        error = relative_error(weights[2] - start, moves)
        assert error < low_precision_rtol(torch.float16)


def train_mixed() -> tuple[Tensor, torch.dtype]:
    model = problems.make_model("conv", torch.float32, sync=True)
    before = model[0].weight.detach().clone()
    policy = MixedPrecisionPolicy(torch.bfloat16, reduce_dtype=torch.float32)
    fully_shard(model[0], mp_policy=policy)
    fully_shard(model, mp_policy=policy)
    optimizer = problems.sgd(model)
    x, y = (
        problems.shard(t, SIZES)
        for t in problems.make_batch("conv", torch.float32, SIZES)
    )
    for _ in range(5):
        loss = problems.loss_of(model, x, y, sum(SIZES)) * len(SIZES)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model[0].weight.full_tensor().detach() - before, model(x).dtype


@problems.needs_exact_fsdp2
def test_mixed_precision_of_fsdp2() -> None:
    truth = problems.train_alone("conv", torch.float32, SIZES)
    for move, dtype in run(2, train_mixed):
        assert dtype == torch.bfloat16
        assert relative_error(move, truth) < low_precision_rtol(torch.bfloat16)


def train_parallel(plan: str) -> Tensor | str:
    """The first layer's output channels, or its entries, are divided among ranks."""
    torch.manual_seed(3)
    mesh = init_device_mesh("cpu", (2,))
    model = problems.make_model("linear", torch.float64)
    style = {"columns": ColwiseParallel, "rows": RowwiseParallel}[plan]
    whole = style(input_layouts=Replicate(), output_layouts=Replicate())
    parallelize_module(model, mesh, {"0": whole})
    x, y = problems.make_batch("linear", torch.float64, SIZES)
    before = model[0].weight.full_tensor().detach().clone()
    optimizer = problems.sgd(model)
    try:
        for _ in range(5):
            problems.loss_of(model, x, y, sum(SIZES)).backward()
            optimizer.step()
            optimizer.zero_grad()
    except RuntimeError as error:
        return str(error)
    return model[0].weight.full_tensor().detach() - before


def test_output_channels_in_parallel() -> None:
    truth = problems.train_alone("linear", torch.float64, SIZES)
    for move in run(2, train_parallel, "columns"):
        assert relative_error(move, truth) < ORACLE_RTOL


def test_entries_in_parallel_are_refused() -> None:
    for message in run(2, train_parallel, "rows"):
        assert "TrAct needs whole rows, so replicate the input" in message


def divided_samples() -> tuple[Tensor, str]:
    """One logical batch that DTensor divides; ranks need not be told of each other."""
    mesh = init_device_mesh("cpu", (2,))
    layer = trainact.TrAct(nn.Linear(7, 4).double())
    plain = trainact.TrAct(nn.Linear(7, 4).double())
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(12, 7, dtype=torch.float64)
    plain(x).square().sum().backward()
    for name, parameter in list(layer.named_parameters()):
        whole = nn.Parameter(distribute_tensor(parameter.data, mesh, [Replicate()]))
        setattr(layer, name, whole)
    shares = distribute_tensor(x, mesh, [Shard(0)])
    layer(shares).square().sum().backward()
    grad = layer.weight.grad
    assert isinstance(grad, DTensor)
    loss = layer(shares).square().sum()
    with pytest.raises(RuntimeError, match="differentiate twice") as caught:
        torch.autograd.grad(loss, layer.weight, create_graph=True)
    return grad.full_tensor() - plain.weight.grad, str(caught.value)


def test_samples_divided_by_dtensor() -> None:
    for difference, _ in run(2, divided_samples):
        assert difference.abs().max() < 1e-12


def divided_weight(dim: int) -> Tensor:
    """Whole rows meet a weight that DTensor divides: how far is its gradient off?"""
    mesh = init_device_mesh("cpu", (2,))
    layer = trainact.TrAct(nn.Linear(6, 4).double())
    plain = trainact.TrAct(nn.Linear(6, 4).double())
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(12, 6, dtype=torch.float64)
    plain(x).square().sum().backward()
    for name, place in (("weight", Shard(dim)), ("bias", Replicate())):
        part = distribute_tensor(getattr(layer, name).data, mesh, [place])
        setattr(layer, name, nn.Parameter(part))
    layer(distribute_tensor(x, mesh, [Replicate()])).square().sum().backward()
    return layer.weight.grad.full_tensor() - plain.weight.grad


@pytest.mark.parametrize("dim", [0, 1], ids=["outputs", "entries"])
def test_a_weight_divided_by_dtensor(dim: int) -> None:
    for difference in run(2, divided_weight, dim):
        assert difference.abs().max() < 1e-12


def join_without_any_batch(sync: bool) -> tuple[str, bool]:
    model = problems.make_model("conv", torch.float32, sync=sync)
    wrapped = DistributedDataParallel(model)
    try:
        with wrapped.join():
            for _ in range(2 * dist.get_rank()):
                wrapped(torch.randn(4, *problems.FIRST["conv"][1])).sum().backward()
    except RuntimeError as error:
        return str(error), False
    return "", model[0].weight.grad is not None


def test_join_where_a_rank_has_no_batch_at_all() -> None:
    idle, busy = run(2, join_without_any_batch, False)
    assert idle == ("", False)
    assert busy == ("", True)
    refusals = [message for message, _ in run(2, join_without_any_batch, True)]
    assert any("does not work inside DDP's join()" in text for text in refusals)


def outsider() -> str:
    group = dist.new_group([0])
    if dist.get_rank() == 0:
        return repr(trainact.TrAct(nn.Linear(3, 2), sync=group))
    with pytest.raises(ValueError, match="not a member") as caught:
        trainact.TrAct(nn.Linear(3, 2), sync=group)
    return str(caught.value)


def test_a_group_without_this_rank_is_refused() -> None:
    member, refusal = run(2, outsider)
    assert "sync=<process group>" in member
    assert "not a member of the process group" in refusal
