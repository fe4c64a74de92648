"""Where the patches of a layer lie: integers only, no tensors and no framework.

A `Geometry` says how a layer cuts its input into rows of the unfolded batch. A linear
layer is the geometry with no spatial dimensions: its rows are the input's vectors.
PyTorch and JAX share this file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


@dataclass(frozen=True)
class Geometry:
    """How a layer cuts its input ``[..., channels, *spatial]`` into patches.

    Attributes:
        channels: input channels of the layer (all groups together).
        kernel_size: per spatial dimension.
        stride: per spatial dimension.
        padding: (before, after) per spatial dimension; negative values, which JAX has,
            crop.
        dilation: per spatial dimension.
        groups: channel groups; each has its own patches and its own Gram matrix.
        padding_mode: how the border is filled.
    """

    channels: int
    kernel_size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    padding_mode: PaddingMode = "zeros"

    @property
    def num_spatial(self) -> int:
        """Number of spatial dimensions; 0 for a linear layer."""
        return len(self.kernel_size)

    @property
    def num_entries(self) -> int:
        """Entries of a patch within one group, the paper's n."""
        return self.channels // self.groups * math.prod(self.kernel_size)

    @property
    def extent(self) -> tuple[int, ...]:
        """Input positions that one patch spans, per spatial dimension."""
        return tuple(
            d * (k - 1) + 1
            for k, d in zip(self.kernel_size, self.dilation, strict=True)
        )

    def output_size(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Number of output positions per spatial dimension, for an input's size."""
        return tuple(
            (size + before + after - dilation * (kernel - 1) - 1) // stride + 1
            for size, (before, after), kernel, dilation, stride in zip(
                spatial,
                self.padding,
                self.kernel_size,
                self.dilation,
                self.stride,
                strict=True,
            )
        )

    def num_rows(self, shape: Sequence[int]) -> int:
        """Rows of the unfolded batch (the paper's b) of an input of this shape."""
        spatial = len(shape) - self.num_spatial
        # Products of all sizes in one would tie compiled code to one batch size.
        return math.prod(shape[: spatial - 1]) * math.prod(
            self.output_size(shape[spatial:])
        )

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a layer takes inputs of this shape, so that they have patches."""
        spatial = len(shape) - self.num_spatial
        return (
            spatial >= 1
            and (spatial <= 2 or self.num_spatial == 0)
            and shape[spatial - 1] == self.channels
            and all(size > 0 for size in self.output_size(shape[spatial:]))
        )


def layer_geometry(layer: Any) -> Geometry:
    """Read the geometry of a Linear or Conv1d/2d/3d layer, of any settings."""
    if not hasattr(layer, "in_channels"):
        return Geometry(layer.in_features)
    return Geometry(
        channels=layer.in_channels,
        kernel_size=tuple(layer.kernel_size),
        stride=tuple(layer.stride),
        padding=resolve_padding(layer.padding, layer.kernel_size, layer.dilation),
        dilation=tuple(layer.dilation),
        groups=layer.groups,
        padding_mode=layer.padding_mode,
    )


def resolve_padding(
    padding: str | Sequence[int],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
) -> tuple[tuple[int, int], ...]:
    """Padding as (before, after) per spatial dimension.

    ``'same'`` adds dilation x (kernel size - 1) positions; where that is odd the extra
    one goes after, as in `torch.nn.functional.conv2d`.
    """
    if not isinstance(padding, str):
        return tuple((int(size), int(size)) for size in padding)
    if padding == "valid":
        return tuple((0, 0) for _ in kernel_size)
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(kernel_size, dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    msg = f"padding {padding!r} is not known: give 'same', 'valid' or integers"
    raise ValueError(msg)


def make_geometry(
    channels: int,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    padding: str | int | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
    padding_mode: str,
    num_spatial: int,
) -> Geometry:
    """The geometry of a functional convolution; a ValueError says what does not fit."""
    if groups < 1 or channels % groups:
        msg = f"groups={groups} does not divide the input's {channels} channels"
        raise ValueError(msg)
    if padding_mode not in PADDING_MODES:
        msg = f"padding_mode {padding_mode!r} is not one of {', '.join(PADDING_MODES)}"
        raise ValueError(msg)
    kernel = _per_dimension("kernel_size", kernel_size, num_spatial, least=1)
    dilations = _per_dimension("dilation", dilation, num_spatial, least=1)
    if not isinstance(padding, str):
        padding = _per_dimension("padding", padding, num_spatial, least=0)
    return Geometry(
        channels=channels,
        kernel_size=kernel,
        stride=_per_dimension("stride", stride, num_spatial, least=1),
        padding=resolve_padding(padding, kernel, dilations),
        dilation=dilations,
        groups=groups,
        padding_mode=padding_mode,
    )


def _per_dimension(
    name: str, value: int | Sequence[int], num_spatial: int, least: int
) -> tuple[int, ...]:
    is_one = isinstance(value, int | float)
    values = (value,) * num_spatial if is_one else tuple(value)
    if len(values) != num_spatial:
        msg = (
            f"{name}={values} has {len(values)} values, but the input has "
            f"{num_spatial} spatial dimensions: give one number, or one for each"
        )
        raise ValueError(msg)
    if any(isinstance(v, float) or v < least for v in values):
        msg = f"{name}={values} must be whole numbers of at least {least}"
        raise ValueError(msg)
    return values
