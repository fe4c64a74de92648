"""What does a layer hand over at each call, and to what?"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from trainact.damping import Damping
from trainact.geometry import Geometry
from trainact.span import Span
from trainact.statistics.group import Group


class Call(NamedTuple):
    """The rows that a weight is multiplied with in one call of its layer.

    Attributes:
        x: this rank's part of the layer's input; may be empty.
        geometry: of the layer.
        damping: λ.
        span: of the input's rows.
        group: ranks among which the input's samples are divided, or None.
    """

    x: Tensor
    geometry: Geometry
    damping: Damping
    span: Span
    group: Group | None = None


class Statistics(Protocol):
    """How the factor of each call of a layer is made, and when."""

    def precondition(self, weight: Tensor, call: Call) -> Tensor:
        """The weight; its gradient will be preconditioned for this call."""
        ...
