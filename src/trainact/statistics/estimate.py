r"""How statistics may be cheaper than exact ones: older, averaged, of fewer images.

By default each call of a layer makes A and its factor from the whole of its input. An
`Estimate` lets a layer do less, at the price of an update that is not exact: see
``docs/cheaper-statistics.md`` for how far off it is and what it saves.
"""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Estimate:
    r"""How a layer's statistics may be cheaper than exact ones; by default not at all.

    With refreshes s at every k-th call, :math:`A_s` from the :math:`b_s` rows sampled
    there, the layer uses

    .. math::
        A_t = \sum_{s \le t} d^{t - s} b_s A_s \Big/ \sum_{s \le t} d^{t - s} b_s ,

    an average over rows without a bias towards zero at the beginning.

    Attributes:
        every: k, calls from one refresh of A and of its factor to the next; in between
            the factor is used again. K-FAC implementations have two such numbers
            (kfac-pytorch: ``factor_update_steps`` and ``inv_update_steps``), SOAP and
            Shampoo call theirs ``precondition_frequency``. Calls count in the order in
            which their gradients come back, also several of one step.
        decay: d, weight that a refresh keeps at the next one (K-FAC: ``factor_decay``);
            0 averages nothing.
        fraction: share of the images (of the leading dimension of a linear layer's
            input) that a refresh is made from, at least one: evenly spaced, beginning
            with another one each time. No random numbers are drawn.

    Not for layers with about as many rows as entries, or fewer: what the factor has not
    seen of a gradient is multiplied by up to 1 / λ, and the update is many times too
    large (measured in ``docs/cheaper-statistics.md``).

    Cost: with ``decay`` (or over several ranks) a P x P system per refresh also where
    there are fewer rows than entries, which is dearer than their exact statistics.

    Examples:
        >>> import torch, trainact
        >>> estimate = trainact.Estimate(every=4, fraction=0.25)
        >>> trainact.TrAct(torch.nn.Linear(3, 2), estimate=estimate).estimate
        Estimate(every=4, decay=0.0, fraction=0.25)
    """

    every: int = 1
    decay: float = 0.0
    fraction: float = 1.0

    def __post_init__(self) -> None:
        if not _is_number(self.every, numbers.Integral) or self.every < 1:
            msg = (
                f"every={self.every!r} is not a whole number of calls from 1 on: 1 "
                "makes the statistics anew at every call, 4 at every fourth"
            )
            raise ValueError(msg)
        if not _is_number(self.decay, numbers.Real) or not 0 <= self.decay < 1:
            msg = (
                f"decay={self.decay!r} is not in [0, 1): 0 averages nothing, 0.9 over "
                "about ten refreshes"
            )
            raise ValueError(msg)
        if not _is_number(self.fraction, numbers.Real) or not 0 < self.fraction <= 1:
            msg = (
                f"fraction={self.fraction!r} is not in (0, 1]: 1 takes every image, "
                "0.25 every fourth"
            )
            raise ValueError(msg)


def check_estimate(estimate: Any) -> Estimate | None:
    """Read the ``estimate`` argument.

    Args:
        estimate: an `Estimate`, or None.

    Returns:
        None for exact statistics, however they were asked for.

    Raises:
        TypeError: if it is something else.
    """
    if estimate is None or estimate == Estimate():
        return None
    if isinstance(estimate, Estimate):
        return estimate
    msg = (
        f"estimate={estimate!r} is not a trainact.Estimate: write "
        "estimate=trainact.Estimate(every=4), or None for exact statistics"
    )
    raise TypeError(msg)


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
