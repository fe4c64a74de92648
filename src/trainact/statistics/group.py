"""Which ranks share statistics, and what do they exchange?"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainact.torch_internals import in_ddp_join, in_transform


class Group:
    """A process group, None for the default one, on a layer that is copied or saved."""

    def __init__(self, group: Any = None) -> None:
        self.group = group

    def __deepcopy__(self, memo: Any) -> Group:
        return self

    def __reduce__(self) -> tuple[type[Group], tuple[()]]:
        # Processes end with the program: what is loaded again has the default group.
        return Group, ()

    def __repr__(self) -> str:
        return "True" if self.group is None else "<process group>"

    def is_alone(self) -> bool:
        """Whether there is no other rank to exchange statistics with."""
        if not (dist.is_available() and dist.is_initialized()):
            return True
        return dist.get_world_size(self.group) == 1


def make_group(sync: Any) -> Group | None:
    """Read the ``sync`` argument: False, True for all ranks, or a process group."""
    if sync is None or sync is False:
        return None
    if sync is True:
        return Group()
    if dist.is_available() and sync is dist.GroupMember.NON_GROUP_MEMBER:
        msg = (
            "this process is not a member of the process group given as sync=: make "
            "one group for each set of ranks that train together, and pass each rank "
            "its own"
        )
        raise ValueError(msg)
    if hasattr(sync, "rank") and hasattr(sync, "size"):
        return Group(sync)
    msg = f"sync={sync!r} is not False, True or a torch.distributed process group"
    raise ValueError(msg)


def gather_counts(
    numbers: list[int], group: Group, device: torch.device
) -> list[list[int]]:
    """Every rank's numbers (how many rows it has, say), which waits for all ranks."""
    own = torch.tensor(numbers, device=device)
    parts = [torch.zeros_like(own) for _ in range(dist.get_world_size(group.group))]
    dist.all_gather(parts, own, group=group.group)
    return [part.tolist() for part in parts]


def gather_rows(rows_GNP: Tensor, counts: list[int], group: Group) -> Tensor:
    """The rows of all ranks, which have ``counts``; a row of zeros if none has any."""
    groups, num_rows, size = rows_GNP.shape
    padded = rows_GNP.new_zeros(groups, max(1, *counts), size)
    padded[:, :num_rows] = rows_GNP
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded, group=group.group)
    if sum(counts) == 0:
        return parts[0]
    return torch.cat([p[:, :n] for p, n in zip(parts, counts, strict=True)], dim=1)


def join_sums(products_GPP: Tensor, num_rows: int) -> Tensor:
    """Sums of products and the row count in one flat tensor, for one collective."""
    count = products_GPP.new_full((1,), num_rows)
    return torch.cat([products_GPP.flatten(), count])


def split_sums(buffer: Tensor, shape: torch.Size) -> Tensor:
    """A, from what `join_sums` gives, summed over ranks; zero if none had a row."""
    return buffer[:-1].view(shape) / buffer[-1].clamp(min=1)


def refuse_what_cannot_work() -> None:
    """Refuse to exchange statistics where ranks would wait for each other forever."""
    if torch.compiler.is_compiling():
        return
    if in_transform():
        msg = (
            "TrAct with sync=True cannot exchange statistics inside a torch.func "
            "transform: use sync=False there"
        )
        raise RuntimeError(msg)
    if in_ddp_join():
        msg = (
            "TrAct with sync=True does not work inside DDP's join(): a rank that has "
            "run out of batches takes no part in the sum of the statistics, and the "
            "others would wait for it forever. Give such ranks empty batches, or use "
            "sync=False"
        )
        raise RuntimeError(msg)
