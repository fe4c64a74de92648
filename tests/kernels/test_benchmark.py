"""The kernels' benchmark runs, writes what it promises, and gates times on errors."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import kernels, operations

from .conftest import needs_interpreter, needs_triton


@needs_triton
@needs_interpreter
def test_smoke(monkeypatch, tmp_path: Path) -> None:
    out = tmp_path / "kernels.jsonl"
    cases = ["resnet18-cifar-b128", "audio-b16"]
    arguments = ["kernels", "--smoke", "--cases", *cases, "--out", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    kernels.main()
    records = [json.loads(line) for line in out.read_text().splitlines()]
    seen = {(record["case"], record["dtype"]) for record in records}
    assert {(name, dtype) for name in cases for dtype in kernels.DTYPES} <= seen
    for record in records:
        assert record["error"] <= record["tolerance"], record
        assert record["ms"]["p25"] <= record["ms"]["median"] <= record["ms"]["p75"]
        assert record["device"]
        assert record["commit"]
    candidates = {record["candidate"].split()[0] for record in records}
    assert candidates == {"library", "explicit", "shifts", "triton"}


def test_no_time_for_what_is_wrong() -> None:
    truth = torch.eye(3, dtype=torch.float64)[None]
    candidates = {"right": lambda: truth, "wrong": lambda: 1.01 * truth}
    error_of, device = kernels.gram_error(truth), torch.device("cpu")
    right, wrong = operations.compare(candidates, error_of, 1e-3, 2, device)
    assert right["error"] == 0
    assert "ms" in right
    assert wrong["error"] == pytest.approx(0.01)
    assert "ms" not in wrong
    assert wrong["refused"]
