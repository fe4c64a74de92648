"""What TrAct adds to a training step, counted: collectives, and bytes kept.

Not bounds but what `trainact.statistics.ranks` and `trainact.factor` do. For operations
see `benchmarks.scaling_operations`.

Legend: G groups, P entries of a row (n), b rows of one rank, N rows of all ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from trainact.geometry import Geometry
from trainact.statistics import ranks as sync

# Bytes of a number: statistics of float32 inputs, sums and systems, a row count.
NARROW, WIDE, COUNT = 4, 8, 8

Exchange = Literal["none", "sums", "rows"]


@dataclass(frozen=True)
class Stem:
    """A first layer, and what one rank shows it in a step.

    Attributes:
        geometry: of the layer; of a linear one without spatial dimensions.
        outputs: channels or features that it makes, of all groups together.
        shape: of a rank's input, ``[B, C, *spatial]``.
        dtype: of the input.
    """

    geometry: Geometry
    outputs: int
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32

    @property
    def entries(self) -> int:
        """P of one group."""
        return self.geometry.num_entries

    @property
    def groups(self) -> int:
        """G."""
        return self.geometry.groups

    @property
    def rows(self) -> int:
        """Rows of this rank, b."""
        return self.geometry.num_rows(self.shape)

    @property
    def is_dual(self) -> bool:
        """Whether a rank by itself has fewer rows than entries."""
        return self.rows < self.entries


@dataclass(frozen=True)
class Collective:
    """One collective operation of a layer's call.

    Attributes:
        name: of the function in `torch.distributed`.
        sent_bytes: of the tensor that a rank hands over.
    """

    name: Literal["all_reduce", "all_gather"]
    sent_bytes: int


def exchange(entries: int, all_rows: int, num_ranks: int) -> Exchange:
    """What ranks that share statistics send to each other.

    Args:
        entries: P.
        all_rows: N, of all ranks.
        num_ranks: how many share.

    Returns:
        Nothing for one rank; sums of products; or the rows themselves where they are
        fewer than their entries and the entries are many.
    """
    if num_ranks == 1:
        return "none"
    if entries <= sync.MAX_SUMMED_ENTRIES or all_rows >= entries:
        return "sums"
    return "rows"


def collectives(stem: Stem, rows_by_rank: Sequence[int]) -> list[Collective]:
    """What a call of the layer with ``sync=True`` sends, from one rank.

    Args:
        stem: what is computed.
        rows_by_rank: b of each rank.

    Returns:
        In the order in which they start.
    """
    kind = exchange(stem.entries, sum(rows_by_rank), len(rows_by_rank))
    if kind == "none":
        return []
    sums = stem.groups * stem.entries**2 + 1
    summed = Collective("all_reduce", WIDE * sums)
    if stem.entries <= sync.MAX_SUMMED_ENTRIES:
        return [summed]
    counted = Collective("all_gather", COUNT)
    if kind == "sums":
        return [counted, summed]
    padded = stem.groups * max(1, *rows_by_rank) * stem.entries
    sent = stem.dtype.itemsize * padded
    return [counted, Collective("all_gather", sent)]


def local_kept_bytes(stem: Stem) -> int:
    """Bytes that a call keeps for its backward pass beyond those of the plain layer.

    With shared statistics there are none: they are made in the backward pass, of the
    input that the layer keeps.

    Args:
        stem: what is computed; float32 or 16-bit, an input without a gradient.

    Returns:
        Of the inverse, or of the dual form's basis, b x b system and 1 / λ.
    """
    if not stem.is_dual:
        return NARROW * stem.groups * stem.entries**2
    basis = NARROW * stem.groups * stem.rows * stem.entries
    return basis + WIDE * stem.groups * (stem.rows**2 + 1)


def scratch_bytes(stem: Stem) -> int:
    """Bytes that the n x n inverse takes for a moment, beside what was kept.

    Args:
        stem: what is computed.

    Returns:
        Of A and of four more matrices of its size in float64.
    """
    return 5 * WIDE * stem.groups * stem.entries**2
