"""Data workers leave signals of a cluster to the process that trains."""

from __future__ import annotations

import io
import multiprocessing
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr
from multiprocessing.connection import Connection

import pytest

from trainact.lab.data.signals import leave_to_parent

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "sigwaitinfo"), reason="signals have no sender here"
)


def work(ready: Connection) -> None:
    leave_to_parent(0)
    ready.send(True)
    time.sleep(60)


def test_only_the_parent_ends_it() -> None:
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=work, args=(there,), daemon=True)
    process.start()
    assert here.recv()
    for name in ("TERM", "USR1", "USR2", "TERM"):
        subprocess.run(["kill", f"-{name}", str(process.pid)], check=True)
        process.join(0.2)
        assert process.is_alive(), name
    process.terminate()
    process.join(30)
    assert process.exitcode == 143


def report(ready: Connection) -> None:
    leave_to_parent(0)
    with io.StringIO() as said, redirect_stderr(said):
        for error in (BrokenPipeError("no taker"), ValueError("of the user's")):
            try:
                raise error
            except Exception:
                # As multiprocessing does, in the thread that hands batches over.
                sys.excepthook(*sys.exc_info())
        ready.send(said.getvalue())


def test_a_batch_without_a_taker_is_no_news() -> None:
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=report, args=(there,), daemon=True)
    process.start()
    said = here.recv()
    process.join(30)
    assert "of the user's" in said
    assert "no taker" not in said
