"""What a method is: something done to any model from outside, before training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class MethodSettings:
    """What a method may need to know.

    Attributes:
        lam: λ; None for a method that has none.
        layer: name of the first layer, or None to let the method find it.
        example_input: one normalised image [1, C, H, W], to find it with.
    """

    lam: float | None
    layer: str | None
    example_input: Tensor


@dataclass(frozen=True)
class Method:
    """A way of training a model.

    Attributes:
        name: as on the command line.
        uses_lam: whether every λ is an arm of its own.
        convert: changes the model in place and returns it; a ValueError is shown to
            the user as one line.
    """

    name: str
    uses_lam: bool
    convert: Callable[[nn.Module, MethodSettings], nn.Module]
