"""Ctrl-C, as a terminal sends it, and SIGTERM, as a cluster does, to real processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.lab.commands import start
from tests.lab.conftest import CONFIG
from tests.lab.photographic import write_photographs
from trainact.lab.data import load_data
from trainact.lab.records import RecordFile
from trainact.lab.run import train

NUM_SEEDS = 400


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGINT to a child needs POSIX")
def test_ctrl_c_keeps_finished_runs(tmp_path: Path) -> None:
    arguments = [
        *("compare", "--model", "mlp", "--methods", "vanilla", "--epochs", "100"),
        *("--seeds", *map(str, range(NUM_SEEDS)), "--out", str(tmp_path)),
    ]
    with start(*arguments) as process:
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


def test_sigterm_means_what_it_meant_before_training() -> None:
    """Where a cluster's job answers it by going on, as submitit's does, it goes on."""
    received: list[int] = []

    def terminate(_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def note(number: int, _: object) -> None:
        received.append(number)

    data = load_data("digits", Path("unused"), limit=50)
    before = signal.signal(signal.SIGTERM, note)
    try:
        record = train(CONFIG, data, torch.device("cpu"), terminate)
        assert signal.getsignal(signal.SIGTERM) is note
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == CONFIG.epochs * [signal.SIGTERM]
    assert len(record.accuracy) == CONFIG.epochs


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(signal, "sigwaitinfo"), reason="data workers need it to ignore SIGTERM"
)
@pytest.mark.parametrize("is_group", [False, True])
def test_sigterm_is_no_success(tmp_path: Path, is_group: bool) -> None:
    """To the process alone, or to those that read its images as well."""
    photographs = write_photographs(tmp_path / "photographs")
    out = tmp_path / "out"
    arguments = [
        *("run", "fig11-30", "--smoke"),
        *("--data", f"imagefolder:{photographs}", "--image-size", "32"),
        *("--epochs", "100000", "--method", "vanilla", "--seed", "0"),
        *("--workers", "2", "--device", "cpu", "--logger", "none", "--out", str(out)),
    ]
    with start(*arguments) as process:
        while not (out / "epochs.jsonl").exists():
            assert process.poll() is None
            time.sleep(0.1)
        (os.killpg if is_group else os.kill)(process.pid, signal.SIGTERM)
        said, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert RecordFile(out / "records.jsonl").read()[0] == []
    assert errors == ""
    assert "Interrupted: the same command goes on where it stopped." in said
