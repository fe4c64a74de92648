"""How a model is run: eager or compiled, in float32 or under autocast, which layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainact.lab.bench.options import MODE_NAMES
from trainact.lab.errors import LabError, did_you_mean

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


@dataclass(frozen=True)
class Mode:
    """A way of running a model.

    Attributes:
        compiled: whether `torch.compile` is put on it.
        bf16: whether the forward runs under bfloat16 autocast.
        channels_last: whether images and weights have that memory format.
    """

    compiled: bool = False
    bf16: bool = False
    channels_last: bool = False

    @property
    def name(self) -> str:
        """As on the command line, with the layout where it is not the usual one."""
        name = MODE_NAMES[2 * self.compiled + self.bf16]
        return f"{name}, channels_last" if self.channels_last else name

    def autocast(self, device: torch.device) -> torch.autocast:
        """Make the context of the forward pass.

        Args:
            device: where it runs.

        Returns:
            bfloat16 autocast, switched off where the mode is float32.
        """
        return torch.autocast(device.type, torch.bfloat16, enabled=self.bf16)

    def compile(self, module: nn.Module) -> Any:
        """Prepare a module to be called.

        Args:
            module: a model or a layer.

        Returns:
            What to call.
        """
        return torch.compile(module) if self.compiled else module

    def lay_out(self, tensor: Tensor) -> Tensor:
        """Bring images, videos or the weights of convolutions into the mode's layout.

        Args:
            tensor: of any number of dimensions.

        Returns:
            It, converted where it has two or three spatial dimensions.
        """
        if self.channels_last and tensor.ndim in _CHANNELS_LAST:
            return tensor.to(memory_format=_CHANNELS_LAST[tensor.ndim])
        return tensor


def find_mode(name: str, channels_last: bool = False) -> Mode:
    """Look a mode up.

    Args:
        name: one of `MODE_NAMES`.
        channels_last: the layout.

    Returns:
        The mode.

    Raises:
        LabError: if there is none of that name.
    """
    if name not in MODE_NAMES:
        raise LabError(
            f"mode {name!r} is not known{did_you_mean(name, MODE_NAMES)}: give "
            f"{', '.join(MODE_NAMES)}"
        )
    index = MODE_NAMES.index(name)
    return Mode(index >= 2, index % 2 == 1, channels_last)
