"""Several processes that train one model together: who this one is, and agreement.

They are started by torchrun, by `trainact run --devices` (which uses torchrun's own
launcher) or as the tasks of a SLURM job; each finds itself in the variables that
torchrun sets. Everything else is torch.distributed's and Lightning's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_NEEDED = (*_VARIABLES, "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Ranks:
    """Which process this is, and of how many.

    Attributes:
        rank: counted over all machines.
        size: processes on all machines.
        local_rank: counted on this machine.
        local_size: processes on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks for all."""
        return self.rank == 0

    @property
    def num_nodes(self) -> int:
        """Number of machines, each with as many processes as this one."""
        return self.size // self.local_size


ALONE = Ranks()


def this_process() -> Ranks:
    """Find out which process this is.

    Returns:
        What torchrun's variables say; `ALONE` where they are not all there.
    """
    if any(name not in os.environ for name in _NEEDED):
        return ALONE
    return Ranks(*(int(os.environ[name]) for name in _VARIABLES))


@contextlib.contextmanager
def joined(device: str) -> Generator[Ranks]:
    """Join the other processes for as long as the block takes.

    Args:
        device: as the user names it: GPUs talk through NCCL, all else through gloo.

    Yields:
        Which process this is.
    """
    ranks = this_process()
    if ranks.size == 1 or dist.is_initialized():
        yield ranks
        return
    on_gpu = device.partition(":")[0] in ("auto", "cuda") and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(ranks.local_rank)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    yield ranks
    # Not after an error: it would wait for the others, and the user for the message.
    dist.destroy_process_group()


def agree(value: T) -> T:
    """Take what the first process has to say.

    Args:
        value: anything that can be pickled; only the first process's counts.

    Returns:
        Its value, in every process.
    """
    if not dist.is_initialized():
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, device=torch.device("cpu"))
    return box[0]


def own_cores() -> int:
    """Count the cores that this process may use and shares with no other of the run.

    Every process must make this call. Where a launcher binds each to cores of its own,
    these are all of them; where none is bound, the machine's are divided.

    Returns:
        At least 1.
    """
    ranks, own = this_process(), _usable_cores()
    if not dist.is_initialized():
        return max(1, len(own) // ranks.local_size)
    machine = ranks.rank - ranks.local_rank  # its first process
    found: list[Any] = [None] * ranks.size
    dist.all_gather_object(found, (machine, own))
    num_sharing = sum(
        where == machine and not own.isdisjoint(cores) for where, cores in found
    )
    return max(1, len(own) // num_sharing)


def _usable_cores() -> set[int]:
    """Cores this process may use, as DataLoader counts them."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def least(value: Tensor) -> Tensor:
    """Take the least value over all processes.

    Args:
        value: one number, on the device that is trained on.

    Returns:
        A new tensor.
    """
    smallest = value.clone()
    if dist.is_initialized():
        dist.all_reduce(smallest, dist.ReduceOp.MIN)
    return smallest
