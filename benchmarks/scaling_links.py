r"""How long a collective takes, by the usual two-parameter model: latency and rate.

A message of V bytes takes :math:`\alpha + V / \beta` from one device to the next. What
the model leaves out: other traffic on the same links, the copies inside a device, and
how a library cuts a message. Its numbers are orders of magnitude, not measurements.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    r"""Between two neighbours of a ring.

    Attributes:
        latency_s: :math:`\alpha`, of a message however small.
        bytes_per_s: :math:`\beta`, one way.
    """

    latency_s: float
    bytes_per_s: float


def ring_all_reduce_s(num_bytes: float, ranks: int, link: Link) -> float:
    r"""A ring: :math:`2 (R - 1) (\alpha + V / (R \beta))`.

    Args:
        num_bytes: V, of the tensor.
        ranks: R.
        link: the slowest of the ring.

    Returns:
        Seconds; 0 for one rank.
    """
    return 2 * (ranks - 1) * _message(num_bytes / ranks, link)


def tree_all_reduce_s(num_bytes: float, ranks: int, link: Link) -> float:
    r"""A pipelined tree: :math:`2 \lceil \log_2 R \rceil \alpha + 2 V / \beta`.

    Args:
        num_bytes: V, of the tensor.
        ranks: R.
        link: the slowest of the tree.

    Returns:
        Seconds; 0 for one rank.
    """
    if ranks == 1:
        return 0.0
    steps = 2 * math.ceil(math.log2(ranks))
    return steps * link.latency_s + 2 * num_bytes / link.bytes_per_s


def all_reduce_s(num_bytes: float, ranks: int, link: Link) -> float:
    """The faster of the two, as libraries choose it.

    Args:
        num_bytes: of the tensor.
        ranks: how many.
        link: the slowest.

    Returns:
        Seconds; 0 for one rank.
    """
    ring = ring_all_reduce_s(num_bytes, ranks, link)
    return min(ring, tree_all_reduce_s(num_bytes, ranks, link))


def all_gather_s(num_bytes: float, ranks: int, link: Link) -> float:
    r"""A ring: :math:`(R - 1) (\alpha + V / \beta)`.

    Args:
        num_bytes: V, of one rank's part.
        ranks: R.
        link: the slowest of the ring.

    Returns:
        Seconds; 0 for one rank.
    """
    return (ranks - 1) * _message(num_bytes, link)


def _message(num_bytes: float, link: Link) -> float:
    return link.latency_s + num_bytes / link.bytes_per_s
