"""What a method is: a change made to any model from outside, before training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainact.lab.config import Setting
from trainact.lab.optimizers import make_optimizer


@dataclass(frozen=True)
class MethodSettings:
    """What a method may need to know.

    Attributes:
        lam: λ; None for a method that has none.
        layer: name of the first layer, or None to let the method find it.
        example_input: one normalised image [1, C, H, W], to find it with.
        images: returns k training images [k, C, H, W] as the model sees them, not
            augmented, always the same; fewer where there are fewer.
        sync: whether several processes train together and share their statistics.
    """

    lam: float | None
    layer: str | None
    example_input: Tensor
    images: Callable[[int], Tensor]
    sync: bool = False


@dataclass(frozen=True)
class Method:
    """A way of training a model.

    Attributes:
        name: as on the command line.
        uses_lam: whether every λ is an arm of its own.
        convert: changes the model in place and returns it; a ValueError is shown to
            the user as one line.
        optimizer: builds the optimizer of the converted model, as
            `trainact.lab.optimizers.make_optimizer` does.
        summary: one line for lists.
    """

    name: str
    uses_lam: bool
    convert: Callable[[nn.Module, MethodSettings], nn.Module]
    optimizer: Callable[[nn.Module, Setting], torch.optim.Optimizer] = make_optimizer
    summary: str = ""
