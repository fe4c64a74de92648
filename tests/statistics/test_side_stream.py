"""Statistics beside the forward pass: what is launched where, and who waits for whom.

A CPU has no streams: stand-ins write down what they are told, in order. What only a
device shows is in `contract/test_gpu_overlap.py`.
"""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import trainact
from trainact.statistics import local, side_stream


class Stream:
    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wait_stream(self, other: Stream) -> None:
        self.log.append(f"{self.name} waits for {other.name}")

    def record_event(self) -> str:
        self.log.append(f"{self.name} marks")
        return f"{self.name}'s mark"

    def wait_event(self, event: str) -> None:
        self.log.append(f"{self.name} waits for {event}")


@pytest.fixture
def log(monkeypatch) -> list[str]:
    told: list[str] = []
    main, side = Stream("main", told), Stream("side", told)

    @contextlib.contextmanager
    def on(stream: Stream):
        told.append(f"on {stream.name}")
        yield
        told.append(f"off {stream.name}")

    compute = side_stream.local_factor

    def local_factor(*arguments):
        told.append("statistics")
        return compute(*arguments)

    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: main)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(side_stream, "side_stream", lambda _: side)
    monkeypatch.setattr(side_stream, "can_overlap", lambda _: True)
    for module in (side_stream, local):
        monkeypatch.setattr(module, "local_factor", local_factor)
    monkeypatch.setattr(
        torch.Tensor,
        "record_stream",
        lambda _, stream: told.append(f"for {stream.name}"),
    )
    return told


FORWARD = ["side waits for main", "on side", "statistics", "off side", "for side"]
FORWARD = [*FORWARD, "side marks"]
BACKWARD = ["main waits for side's mark", "for main"]


def pair() -> tuple[nn.Module, nn.Module, torch.Tensor]:
    plain = trainact.TrAct(nn.Conv2d(3, 4, 3))
    beside = copy.deepcopy(plain)
    beside.overlap = True
    return plain, beside, torch.randn(2, 3, 8, 8)


def test_order_of_launches_and_waits(log: list[str]) -> None:
    _, layer, x = pair()
    z = layer(x)
    assert log == FORWARD
    z.sum().backward()
    assert log == FORWARD + BACKWARD


@pytest.mark.usefixtures("log")
def test_gradient_is_the_same() -> None:
    plain, beside, x = pair()
    for layer in (plain, beside):
        layer(x).square().sum().backward()
    assert torch.equal(plain.weight.grad, beside.weight.grad)


def test_recomputed_forward_launches_nothing_again(log: list[str]) -> None:
    _, layer, x = pair()
    checkpoint(layer, x, use_reentrant=False).sum().backward()
    assert log == FORWARD + BACKWARD


def test_off_by_default(log: list[str]) -> None:
    plain, _, x = pair()
    plain(x).sum().backward()
    assert log == ["statistics"]
    assert not plain.overlap


def test_not_on_a_cpu_nor_under_transforms(monkeypatch) -> None:
    assert not side_stream.can_overlap(torch.zeros(1))
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert side_stream.can_overlap(torch.zeros(1))
    seen = []
    torch.func.grad(lambda x: seen.append(side_stream.can_overlap(x)) or x.sum())(
        torch.zeros(1)
    )
    assert seen == [False]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert not side_stream.can_overlap(torch.zeros(1))
