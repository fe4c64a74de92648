"""Processes side by side: stopped together, and on a device each."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.lab.commands import start
from trainact.lab import processes
from trainact.lab.workspace import Workspace


def test_devices_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert processes._spread("auto", 3) == ["cuda:0", "cuda:1", "cuda:0"]
    assert processes._spread("cuda:1", 2) == ["cuda:1", "cuda:1"]
    assert processes._spread("cpu", 2) == ["cpu", "cpu"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert processes._spread("auto", 2) == ["auto", "auto"]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals to a child need POSIX")
@pytest.mark.parametrize(
    ("stop", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_stopped_together_they_go_on_where_they_were(
    tmp_path: Path, stop: signal.Signals, code: int
) -> None:
    command = (
        *("sweep", "fig3-sgd-100", "--smoke"),
        *("--epochs", "3000", "--checkpoint-seconds", "0", "--logger", "none"),
        *("--method", "vanilla", "--seeds", "2", "--jobs", "2", "--device", "cpu"),
        *("--out", str(tmp_path)),
    )
    workspace = Workspace(tmp_path)
    with start(*command) as process:
        deadline = time.monotonic() + 90
        while len({e.seed for e in workspace.epochs.read()[0]}) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        process.send_signal(stop)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Interrupted: the same command goes on where it stopped." in out
    epochs = workspace.epochs.read()[0]
    time.sleep(1)
    assert workspace.epochs.read()[0] == epochs, "no process is left behind"
    assert len(list((tmp_path / "checkpoints").glob("*.ckpt"))) == 2
