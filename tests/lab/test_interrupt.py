"""Ctrl-C, as a terminal sends it, to a real process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.lab.conftest import CONFIG
from trainact.lab.data import load_data
from trainact.lab.records import RecordFile
from trainact.lab.run import train

NUM_SEEDS = 400
# A shell that starts tests in the background lets them ignore SIGINT: undo that.
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from trainact.cli import main
sys.exit(main())
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGINT to a child needs POSIX")
def test_ctrl_c_keeps_finished_runs(tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-c", PROGRAM, "compare", "--model", "mlp"),
        *("--methods", "vanilla", "--epochs", "100"),
        *("--seeds", *map(str, range(NUM_SEEDS)), "--out", str(tmp_path)),
    ]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        while lines[-1] and not lines[-1].startswith(f"[1/{NUM_SEEDS}]"):
            lines.append(process.stdout.readline())
        time.sleep(0.5)  # into the next run, which takes seconds
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err == ""
    records, warnings = RecordFile(tmp_path / "records.jsonl").read()
    assert warnings == []
    assert 1 <= len(records) < NUM_SEEDS
    assert f"Interrupted: {len(records)} of {NUM_SEEDS} runs are finished" in out
    assert "The same command trains the rest." in out
    assert "vanilla" in out
    assert (tmp_path / "summary.md").exists()
    assert (tmp_path / "curves.png").exists()


def test_an_interrupt_inside_lightning_comes_out_and_ctrl_c_works_again() -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    data = load_data("digits", Path("unused"), limit=50)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, data, torch.device("cpu"), interrupt)
    assert signal.getsignal(signal.SIGINT) is handler
