"""Where the patches of a convolution lie: integers only, no tensors.

A `Geometry` says how a layer cuts its input into rows of the unfolded batch. A linear
layer is the geometry with no spatial dimensions: its rows are the input's vectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from torch import nn

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


@dataclass(frozen=True)
class Geometry:
    """How a convolution cuts its input into patches.

    Attributes:
        channels: input channels of the layer (all groups together).
        kernel_size: per spatial dimension.
        stride: per spatial dimension.
        padding: (before, after) per spatial dimension.
        dilation: per spatial dimension.
        groups: channel groups; each has its own patches and its own Gram matrix.
        padding_mode: how the border is filled.
    """

    channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1
    padding_mode: PaddingMode = "zeros"

    @property
    def num_spatial(self) -> int:
        """Number of spatial dimensions: 1, 2 or 3."""
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

    def padded_size(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Spatial size of the padded input.

        Args:
            spatial: spatial size of the input.

        Returns:
            The size with both borders added.
        """
        return tuple(
            size + before + after
            for size, (before, after) in zip(spatial, self.padding, strict=True)
        )

    def output_size(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Number of output positions per spatial dimension.

        Args:
            spatial: spatial size of the input.

        Returns:
            The spatial size of the layer's output.
        """
        return tuple(
            (size - extent) // stride + 1
            for size, extent, stride in zip(
                self.padded_size(spatial), self.extent, self.stride, strict=True
            )
        )

    def num_rows(self, batch: int, spatial: Sequence[int]) -> int:
        """Rows of the unfolded batch, the paper's b: images times output positions.

        Args:
            batch: number of images.
            spatial: spatial size of the input.

        Returns:
            The number of rows.
        """
        return batch * math.prod(self.output_size(spatial))


def conv_geometry(layer: nn.Module) -> Geometry:
    """Read the geometry of a convolution layer.

    Args:
        layer: `torch.nn.Conv1d`, `Conv2d` or `Conv3d` with any settings.

    Returns:
        Its geometry.
    """
    conv = cast("nn.Conv2d", layer)
    return Geometry(
        channels=conv.in_channels,
        kernel_size=tuple(conv.kernel_size),
        stride=tuple(conv.stride),
        padding=resolve_padding(conv.padding, conv.kernel_size, conv.dilation),
        dilation=tuple(conv.dilation),
        groups=conv.groups,
        padding_mode=conv.padding_mode,
    )


def layer_geometry(layer: nn.Module) -> Geometry | None:
    """Say how a layer cuts its input into patches.

    Args:
        layer: a Linear, Conv1d, Conv2d or Conv3d.

    Returns:
        Its geometry; None for a linear layer, whose patches are the input's vectors.
    """
    return None if isinstance(layer, nn.Linear) else conv_geometry(layer)


def resolve_padding(
    padding: str | Sequence[int],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
) -> tuple[tuple[int, int], ...]:
    """Spell padding out as (before, after) per spatial dimension.

    ``'same'`` adds dilation x (kernel size - 1) positions; where that is odd the extra
    one goes after, as in `torch.nn.functional.conv2d`.

    Args:
        padding: ``'valid'``, ``'same'`` or a number per spatial dimension.
        kernel_size: per spatial dimension.
        dilation: per spatial dimension.

    Returns:
        (before, after) per spatial dimension.

    Raises:
        ValueError: if the padding is another string.
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
    """Build and check a geometry from the arguments of a functional convolution.

    Args:
        channels: input channels.
        kernel_size: one number for all spatial dimensions, or one each.
        stride: likewise.
        padding: likewise, or ``'same'`` or ``'valid'``.
        dilation: likewise.
        groups: channel groups.
        padding_mode: ``zeros``, ``reflect``, ``replicate`` or ``circular``.
        num_spatial: number of spatial dimensions of the input.

    Returns:
        The geometry.

    Raises:
        ValueError: if groups do not divide the channels, a number of values does not
            fit the spatial dimensions, or the padding is not known.
    """
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
    values = (value,) * num_spatial if isinstance(value, int) else tuple(value)
    if len(values) != num_spatial:
        msg = (
            f"{name}={values} has {len(values)} values, but the input has "
            f"{num_spatial} spatial dimensions: give one number, or one for each"
        )
        raise ValueError(msg)
    if min(values) < least:
        msg = f"{name}={values} must be at least {least}"
        raise ValueError(msg)
    return values
