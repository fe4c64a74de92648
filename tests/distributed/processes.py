"""Run a function in several real processes that exchange tensors through gloo."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import pickle
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist

# A rank that waits in a collective gives up first and shows where it waited.
COLLECTIVE_SECONDS = 50
SECONDS = 150

# Every rank is a fresh process, but torch is imported once for all of them.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [__name__, "torch.distributed.checkpoint", "torch.distributed.fsdp", "trainact.api"]
)


def run(num_ranks: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """Call ``function(*args)`` in as many processes; what each returned, by rank."""
    with TemporaryDirectory() as folder:
        pipes: list[Connection] = []
        processes = []
        for rank in range(num_ranks):
            ours, theirs = _context.Pipe(duplex=False)
            process = _context.Process(
                target=_work, args=(theirs, rank, num_ranks, folder, function, args)
            )
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        try:
            results = _collect(pipes)
        finally:
            for process in processes:
                process.join(5)
                if process.is_alive():
                    process.kill()
                    process.join()
    errors = [f"rank {r}: {value}" for r, (ok, value) in enumerate(results) if not ok]
    if errors:
        raise AssertionError("\n".join(errors))
    return [value for _, value in results]


def _collect(pipes: list[Connection]) -> list[tuple[bool, Any]]:
    """One answer from each rank before the time is up; an error ends the waiting."""
    answers: dict[int, tuple[bool, Any]] = {}
    deadline = time.monotonic() + SECONDS
    while len(answers) < len(pipes) and time.monotonic() < deadline:
        open_pipes = [pipe for rank, pipe in enumerate(pipes) if rank not in answers]
        for pipe in wait(open_pipes, max(0.0, deadline - time.monotonic())):
            try:
                answer = pickle.loads(pipe.recv_bytes())
            except EOFError:
                answer = (False, "died without a word")
            answers[pipes.index(pipe)] = answer
        if any(not ok for ok, _ in answers.values()):
            # The others wait for a rank that is gone: a moment for their own errors.
            deadline = min(deadline, time.monotonic() + 3)
    missing = (False, "no answer: it hangs, or waits for a rank that failed")
    return [answers.get(rank, missing) for rank in range(len(pipes))]


def _work(
    pipe: Connection,
    rank: int,
    num_ranks: int,
    folder: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    warnings.filterwarnings("error", module="trainact")
    # No rank is done, and gone, before another has connected to it.
    os.environ["TORCH_DIST_INIT_BARRIER"] = "1"
    dist.init_process_group(
        "gloo",
        init_method=f"file://{Path(folder) / 'store'}",
        rank=rank,
        world_size=num_ranks,
        timeout=datetime.timedelta(seconds=COLLECTIVE_SECONDS),
    )
    try:
        answer = (True, function(*args))
    except BaseException:
        answer = (False, traceback.format_exc())
    pipe.send_bytes(pickle.dumps(answer))
    pipe.close()
    dist.destroy_process_group()
