"""Several jobs at a time on this machine, each in a process of its own.

A process that dies takes its own run with it and no other; the run goes on from its
checkpoint when the same command is given again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import torch
from rich.console import Console

from trainact.lab.jobs import Job, key_of
from trainact.lab.progress import ComparisonProgress, outcome
from trainact.lab.workspace import Workspace

_SECONDS_BETWEEN_LOOKS = 60.0


class _Team:
    """Processes at work, so that all can be told to stop."""

    def __init__(self, size: int, device: str) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False
        self._threads = max(1, (os.cpu_count() or 1) // size)
        self._devices: SimpleQueue[str] = SimpleQueue()
        for name in _spread(device, size):
            self._devices.put(name)

    def carry_out(self, job: Job) -> str | None:
        """Run one job to its end.

        Returns:
            None, or the last line that it wrote about what went wrong.
        """
        device = self._devices.get()
        try:
            process = self._start()
            if process is None:
                return "not started"
            placed = replace(job, place=replace(job.place, device=device))
            _, errors = process.communicate(placed.to_json())
            with self._lock:
                self._running.discard(process)
        finally:
            self._devices.put(device)
        if process.returncode == 0:
            return None
        lines = errors.strip().splitlines()
        return lines[-1] if lines else f"ended with exit code {process.returncode}"

    def _start(self) -> subprocess.Popen[str] | None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(self._threads)}
        with self._lock:
            if self._stopped:
                return None
            process = subprocess.Popen(
                [sys.executable, "-m", "trainact.lab.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                env=environment,
                start_new_session=True,  # Ctrl-C reaches this process alone
            )
            self._running.add(process)
        return process

    def stop(self) -> None:
        """Tell every process to end, and start no more."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()


def _spread(device: str, size: int) -> list[str]:
    """Give each of some processes a device: all the same, or GPUs in turn."""
    count = torch.cuda.device_count()
    if device in ("auto", "cuda") and count > 1:
        return [f"cuda:{number % count}" for number in range(size)]
    return size * [device]


def run_side_by_side(
    jobs: Sequence[Job], size: int, console: Console
) -> tuple[int, bool]:
    """Carry jobs out, several at a time.

    Args:
        jobs: without a record.
        size: how many at a time.
        console: where what became of them is shown.

    Returns:
        (how many failed, whether Ctrl-C ended it).
    """
    if not jobs:
        return 0, False
    team = _Team(size, jobs[0].place.device)
    failed = 0
    with (
        ComparisonProgress(console, len(jobs)) as progress,
        ThreadPoolExecutor(size) as pool,
    ):
        pending = {pool.submit(team.carry_out, job): job for job in jobs}
        try:
            while pending:
                done, _ = wait(pending, _SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED)
                for future in done:
                    problem, job = future.result(), pending.pop(future)
                    failed += problem is not None
                    progress.finish(job.config.title, problem or _outcome(job))
                if not done:
                    progress.say(_how_far(list(pending.values())))
        except KeyboardInterrupt:
            team.stop()
            return failed, True
    return failed, False


def _how_far(jobs: Sequence[Job]) -> list[str]:
    """The last epoch of every job that has one."""
    epochs, _ = Workspace(Path(jobs[0].place.out)).epochs.read()
    last = {epoch.key: epoch for epoch in epochs}
    return [
        f"{job.config.title}: epoch {epoch.epoch} of {job.config.epochs}, "
        f"accuracy {epoch.accuracy:.4f}"
        for job in jobs
        if (epoch := last.get(key_of(job))) is not None
    ]


def _outcome(job: Job) -> str:
    return outcome(Workspace(Path(job.place.out)).find(key_of(job)))
