"""What users rely on is as it was committed; `contents` says what that is."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import trainact
from tests.distributed.processes import run
from tests.tolerances import CURVE_RTOL, ORACLE_RTOL, relative_error

from . import contents
from .contents import NETWORKS, backward, curve, largest_change, network, sgd


def test_public_names_and_signatures() -> None:
    assert not contents.api_changes(contents.MODULES)


@pytest.mark.parametrize("name", contents.layers())
def test_saved_layers(name: str) -> None:
    layer = torch.load(contents.LAYERS, weights_only=False)[name]
    _, wanted = torch.load(contents.STATES, weights_only=True)[name]
    fresh, x = contents.layers()[name]
    assert repr(layer) == repr(fresh)
    assert type(layer) is type(fresh)
    assert relative_error(contents.response(layer, x), wanted) < ORACLE_RTOL


@pytest.mark.parametrize("name", contents.layers() | contents.parametrised())
def test_saved_states(name: str) -> None:
    state, wanted = torch.load(contents.STATES, weights_only=True)[name]
    layer, x = (contents.layers() | contents.parametrised())[name]
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    layer.load_state_dict(state)
    assert relative_error(contents.response(layer, x), wanted) < ORACLE_RTOL


@pytest.mark.parametrize("name", NETWORKS)
def test_eager(name: str) -> None:
    model = network(name)
    assert largest_change(name, curve(name, model, sgd(model))) < CURVE_RTOL


@pytest.mark.parametrize("name", NETWORKS)
def test_compiled(name: str) -> None:
    torch._dynamo.reset()
    model = network(name)
    # The backend only decides what becomes of the traced operators.
    compiled = torch.compile(model, backend="aot_eager")
    assert largest_change(name, curve(name, compiled, sgd(model))) < CURVE_RTOL


@pytest.mark.parametrize("name", NETWORKS)
def test_deferred(name: str) -> None:
    def micro_batches(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        parts = zip(x.chunk(4), y.chunk(4), strict=True)
        losses = [nn.functional.cross_entropy(model(x), y) / 4 for x, y in parts]
        for loss in losses:
            loss.backward()
        return torch.stack(losses).sum().detach()

    model = network(name)
    optimizer = sgd(model)
    with trainact.deferred(model, optimizer):
        losses = curve(name, model, optimizer, micro_batches)
    assert largest_change(name, losses) < CURVE_RTOL


def curves_of_a_rank() -> dict[str, list[float]]:
    """Each rank has half of the batch; gradients are averaged, as DDP does."""

    def half(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        rank = dist.get_rank()
        loss = backward(model, x.chunk(2)[rank], y.chunk(2)[rank])
        for value in (loss, *(parameter.grad for parameter in model.parameters())):
            dist.all_reduce(value)
            value.div_(2)
        return loss

    models = {name: network(name, sync=True) for name in NETWORKS}
    return {name: curve(name, m, sgd(m), half) for name, m in models.items()}


def test_sync_on_two_ranks() -> None:
    for losses in run(2, curves_of_a_rank):
        for name in NETWORKS:
            assert largest_change(name, losses[name]) < CURVE_RTOL, name
