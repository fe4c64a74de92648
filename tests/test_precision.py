"""Which settings round float32 products is seen, whatever version has them."""

from __future__ import annotations

import pytest
import torch

from trainact.precision import rounds_float32


@pytest.fixture
def settings():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_setting_is_seen(device: str) -> None:
    torch.set_float32_matmul_precision("highest")
    assert not rounds_float32(device)
    torch.set_float32_matmul_precision("medium")
    assert rounds_float32(device)


@pytest.mark.usefixtures("settings")
def test_older_and_newer_switches_are_seen() -> None:
    torch.backends.cuda.matmul.allow_tf32 = True
    assert rounds_float32("cuda")
    torch.backends.cuda.matmul.allow_tf32 = False
    assert not rounds_float32("cuda")
    if not hasattr(torch.backends, "fp32_precision"):
        return  # torch 2.8 has no other switch
    for switch in (torch.backends.cuda.matmul, torch.backends):
        switch.fp32_precision = "tf32"
        assert rounds_float32("cuda")
        switch.fp32_precision = "none"


@pytest.mark.usefixtures("settings")
def test_the_only_switch_of_torch_2_8_is_seen(monkeypatch) -> None:
    # There no backend of a CPU has a setting of its own.
    monkeypatch.setattr(torch.backends.mkldnn, "matmul", None, raising=False)
    torch.set_float32_matmul_precision("highest")
    assert not rounds_float32("cpu")
    torch.set_float32_matmul_precision("high")
    assert rounds_float32("cpu")
