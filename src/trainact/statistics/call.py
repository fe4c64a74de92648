"""What a layer hands over at each call, and what takes it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from trainact.damping import Damping
from trainact.geometry import Geometry
from trainact.span import Span
from trainact.statistics.group import Group


class Call(NamedTuple):
    r"""The rows that a weight meets in one call of its layer.

    Attributes:
        x: the layer's input, this rank's part of it; may be empty.
        geometry: of the layer.
        damping: :math:`\lambda`.
        span: of the input's rows.
        group: ranks among which the input's samples are divided, or None.
    """

    x: Tensor
    geometry: Geometry
    damping: Damping
    span: Span
    group: Group | None = None

    @property
    def num_rows(self) -> int:
        """The paper's b, of this rank."""
        return self.geometry.num_rows(self.x.shape)

    @property
    def is_few(self) -> bool:
        """Whether there are fewer rows than entries."""
        return self.num_rows < self.geometry.num_entries


class Statistics(Protocol):
    """How the factor of each call of a layer is made, and when."""

    def precondition(self, weight: Tensor, call: Call) -> Tensor:
        """Pass the weight on; its gradient will be preconditioned for this call."""
        ...
