"""Real processes that carry out a job, together or alone, and that may be killed.

They are forked from a server that has imported everything and trained nothing: each
starts in a fraction of a second.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import traceback
from multiprocessing.process import BaseProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "tests.lab.forked",
        "trainact.lab.jobs",
        "trainact.lab.classification",
        "trainact.lab.data.digits",
        "sklearn.datasets",
        "timm.data.mixup",
    ]
)
TIMEOUT = 120.0


def start(job_json: str, num_ranks: int, log: Path) -> list[BaseProcess]:
    """Start the processes of one run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes: list[BaseProcess] = [
        _CONTEXT.Process(
            target=_carry_out, args=(job_json, rank, num_ranks, port, str(log))
        )
        for rank in range(num_ranks)
    ]
    for process in processes:
        process.start()
    return processes


def finish(processes: list[BaseProcess]) -> list[int | None]:
    """Wait for all; where one fails the others are ended, as torchrun does."""
    waiting = list(processes)
    while waiting:
        done = multiprocessing.connection.wait(
            [process.sentinel for process in waiting], TIMEOUT
        )
        if not done:
            end(processes)
            raise TimeoutError
        waiting = [process for process in waiting if process.sentinel not in done]
        if any(process.exitcode for process in processes):
            end(processes)
    return [process.exitcode for process in processes]


def end(processes: list[BaseProcess]) -> None:
    """Kill the processes and wait for that."""
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


def _carry_out(job_json: str, rank: int, size: int, port: str, log: str) -> None:
    import torch

    from trainact.lab.jobs import Job, carry_out
    from trainact.lab.ranks import joined

    torch.set_num_threads(1)
    # As the command has it: what reads images is not started by a server of its own.
    multiprocessing.set_start_method("fork", force=True)
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    values = dict(zip(names, map(str, (rank, rank, size, size)), strict=True))
    os.environ.update(values, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    try:
        with joined("cpu"):
            carry_out(Job.from_json(job_json), lambda _: None)
    except BaseException:
        with Path(log).open("a", encoding="utf-8") as file:
            traceback.print_exc(file=file)
        sys.exit(1)
