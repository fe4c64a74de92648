"""Which implementation runs: the default, the explicit wish, the measured case."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from torch import nn

import trainact
from trainact.damping import Damping
from trainact.factor import factorise
from trainact.geometry import Geometry
from trainact.kernels import choice
from trainact.kernels.choice import MAX_INVERSE_ENTRIES, MAX_ROWS, Win
from trainact.statistics import operators

SQUARE = torch.eye(3, dtype=torch.float64)[None]
DEVICE = "a device"


@pytest.fixture(autouse=True)
def default_choice():
    with trainact.kernels.use("auto"):
        yield


@pytest.fixture
def on_a_device(monkeypatch):
    """As if Triton were there and the tensors on a device."""
    monkeypatch.setattr(choice, "missing", lambda _: None)
    monkeypatch.setattr(choice, "device_name", lambda _: DEVICE)


@pytest.fixture
def wins(monkeypatch):
    monkeypatch.setattr(
        choice,
        "MEASURED_WINS",
        (
            Win("products", DEVICE, torch.bfloat16, (9, 64), (100, 10_000), "record"),
            Win("inverse", DEVICE, torch.float32, (9, 64), (1, 1), "record"),
        ),
    )


def test_nothing_is_taken_without_a_measurement() -> None:
    assert choice.MEASURED_WINS == ()
    for operation in ("products", "inverse"):
        assert not choice.may_take(operation)


@pytest.mark.usefixtures("on_a_device", "wins")
def test_automatic_choice_stays_within_what_was_measured() -> None:
    half, full = torch.zeros(1, dtype=torch.bfloat16), torch.zeros(1)
    assert choice.takes_products(half, 27, 1000)
    assert choice.takes_inverse(torch.eye(27)[None], torch.float32)
    assert not choice.takes_products(full, 27, 1000)
    assert not choice.takes_products(half, 8, 1000)
    assert not choice.takes_products(half, 65, 1000)
    assert not choice.takes_products(half, 27, 99)
    assert not choice.takes_products(half, 27, 10_001)
    assert not choice.takes_inverse(torch.eye(27)[None], torch.float64)
    with trainact.kernels.use("library"):
        assert not choice.takes_products(half, 27, 1000)


@pytest.mark.usefixtures("wins")
def test_automatic_choice_falls_back_silently(monkeypatch) -> None:
    monkeypatch.setattr(choice, "missing", lambda _: "a reason")
    half = torch.zeros(1, dtype=torch.bfloat16)
    assert not choice.takes_products(half, 27, 1000)


def test_a_choice_lasts_until_the_next_or_for_a_block() -> None:
    trainact.kernels.use(products="triton")
    assert choice.may_take("products")
    assert not choice.may_take("inverse")
    with trainact.kernels.use("library"):
        assert not choice.may_take("products")
        with trainact.kernels.use(inverse="triton"):
            assert choice.may_take("inverse")
        assert not choice.may_take("inverse")
    assert choice.may_take("products")


def test_a_choice_ends_with_an_error() -> None:
    with pytest.raises(KeyError), trainact.kernels.use("triton"):
        raise KeyError
    assert not choice.may_take("products")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cuda",), f"backend 'cuda' is not one of {', '.join(choice.BACKENDS)}"),
        ((), "give a backend, or one for products= or inverse="),
    ],
)
def test_unknown_choices_are_refused(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainact.kernels.use(*arguments)
    assert not choice.may_take("products")


def refused(message: str):
    return pytest.raises(RuntimeError, match=re.escape(message))


def test_a_wish_fails_loudly_without_a_device(monkeypatch) -> None:
    monkeypatch.setattr(choice, "INTERPRETED", False)
    layer = trainact.TrAct(nn.Linear(4, 2))
    with trainact.kernels.use("triton"), refused("the tensors are on 'cpu'"):
        layer(torch.randn(8, 4))
    with trainact.kernels.use("triton"), refused("the tensors are on 'cpu'"):
        factorise(SQUARE, Damping(0.1), torch.float32)


def test_a_wish_fails_loudly_without_triton(monkeypatch) -> None:
    monkeypatch.setattr(choice, "INSTALLED", False)
    with trainact.kernels.use("triton"), refused("Triton is not installed"):
        operators.gram(torch.randn(8, 4), Geometry(4))


@pytest.mark.usefixtures("on_a_device")
def test_a_wish_fails_loudly_where_a_kernel_has_limits() -> None:
    with trainact.kernels.use("triton"):
        with refused("not torch.float64"):
            choice.takes_products(torch.zeros(1, dtype=torch.float64), 4, 8)
        with refused(f"at most {MAX_ROWS} rows"):
            choice.takes_products(torch.zeros(1), 4, MAX_ROWS + 1)
        size = MAX_INVERSE_ENTRIES + 1
        with refused(f"at most {MAX_INVERSE_ENTRIES} entries, and there are {size}"):
            choice.takes_inverse(torch.zeros(1, size, size), torch.float32)


def test_importing_trainact_imports_no_kernel() -> None:
    code = "import sys, torch; before = set(sys.modules); import trainact; "
    code += "trainact.apply; print(*set(sys.modules) - before)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "trainact.kernels.choice" in loaded
    # Triton itself may be there: PyTorch imports it for torch.compile.
    assert not loaded & {"trainact.kernels.gram", "trainact.kernels.inverse"}
