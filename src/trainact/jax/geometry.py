"""Where the patches of a convolution lie, in JAX's terms: integers only, no arrays.

JAX names the axes of input, kernel and output (``NHWC``, ``HWIO``, ``NHWC``). All are
brought into one order here, channels before spatial dimensions, and nothing after this
module knows of any other.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax import lax
from jax.export import is_symbolic_dim

Pairs = tuple[tuple[int, int], ...]
Padding = str | int | Sequence[int] | Sequence[tuple[int, int]]
_NUMPY = (np.ndarray, np.generic)
PADDINGS = ("SAME", "SAME_LOWER", "VALID")


@dataclass(frozen=True)
class Geometry:
    """How a convolution cuts its input into patches.

    Attributes:
        channels: input channels of the layer (all groups together).
        kernel_size: per spatial dimension.
        strides: per spatial dimension.
        padding: (before, after) per spatial dimension; negative values crop.
        dilation: per spatial dimension.
        groups: channel groups; each has its own patches and its own Gram matrix.
        x_axes: where the input has its batch, its channels, its spatial dimensions.
    """

    channels: int
    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]
    groups: int
    x_axes: tuple[int, ...]

    @property
    def num_spatial(self) -> int:
        """Number of spatial dimensions."""
        return len(self.kernel_size)

    @property
    def num_entries(self) -> int:
        """Entries of a patch within one group, the paper's n."""
        return self.channels // self.groups * math.prod(self.kernel_size)

    @property
    def extent(self) -> tuple[int, ...]:
        """Input positions that one patch spans, per spatial dimension."""
        pairs = zip(self.kernel_size, self.dilation, strict=True)
        return tuple(d * (k - 1) + 1 for k, d in pairs)

    def output_size(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Number of output positions per spatial dimension.

        Args:
            spatial: spatial size of the input, in the kernel's order.

        Returns:
            The spatial size of the layer's output, 0 where no patch fits.
        """
        sizes = zip(spatial, self.padding, self.extent, self.strides, strict=True)
        return tuple(
            max(0, (size + sum(pad) - extent) // stride + 1)
            for size, pad, extent, stride in sizes
        )

    def num_rows(self, shape: Sequence[int]) -> int:
        """Rows of the unfolded batch, the paper's b: images times output positions.

        Args:
            shape: of the input, with its axes where the user has them.

        Returns:
            The number of rows.
        """
        batch, _, *spatial = (shape[axis] for axis in self.x_axes)
        return batch * math.prod(self.output_size(spatial))


def axes_of_layout(layout: str, first: str, second: str) -> tuple[int, ...]:
    """Positions of a layout's axes in the order in which the method takes them.

    Args:
        layout: a letter per axis, such as ``"NHWC"`` or ``"HWIO"``.
        first: letter of the axis that comes first.
        second: letter of the axis that comes second.

    Returns:
        Positions of the two, then of all others as they stand.

    Raises:
        ValueError: if a letter is missing or given twice.
    """
    if len(set(layout)) != len(layout) or not {first, second} <= set(layout):
        msg = (
            f"layout={layout!r} must name every axis by a letter of its own, among "
            f"them {first!r} and {second!r}"
        )
        raise ValueError(msg)
    spatial = [
        axis for axis, letter in enumerate(layout) if letter not in first + second
    ]
    return (layout.index(first), layout.index(second), *spatial)


def make_geometry(
    spatial: Sequence[int],
    channels: int,
    kernel_size: int | Sequence[int],
    strides: int | Sequence[int],
    padding: Padding,
    dilation: int | Sequence[int],
    groups: int,
    x_axes: tuple[int, ...],
) -> Geometry:
    """Build and check a geometry.

    Args:
        spatial: spatial size of the input.
        channels: input channels.
        kernel_size: one number for all spatial dimensions, or one each.
        strides: likewise.
        padding: likewise, or a (before, after) pair each, or ``'SAME'``,
            ``'SAME_LOWER'`` or ``'VALID'``, as `jax.lax` defines them.
        dilation: one number for all spatial dimensions, or one each.
        groups: channel groups.
        x_axes: where the input has its batch, its channels, its spatial dimensions.

    Returns:
        The geometry.

    Raises:
        ValueError: if a spatial size is symbolic, groups do not divide the channels, a
            number of values does not fit the spatial dimensions, or the padding is not
            known.
    """
    if any(map(is_symbolic_dim, spatial)):
        msg = (
            f"x has symbolic spatial sizes {tuple(spatial)}: only the batch may be "
            "symbolic, export with images of one size"
        )
        raise ValueError(msg)
    if groups < 1 or channels % groups:
        msg = f"groups={groups} does not divide the input's {channels} channels"
        raise ValueError(msg)
    num = len(spatial)
    kernel = per_dimension("kernel_size", kernel_size, num)
    steps = per_dimension("strides", strides, num)
    dilations = per_dimension("dilation", dilation, num)
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    return Geometry(
        channels=channels,
        kernel_size=kernel,
        strides=steps,
        padding=resolve_padding(padding, spatial, extent, steps),
        dilation=dilations,
        groups=groups,
        x_axes=x_axes,
    )


def per_dimension(name: str, value: int | Sequence[int], num: int) -> tuple[int, ...]:
    """Spell a setting out for every spatial dimension.

    Args:
        name: of the setting, for the error message.
        value: one positive number for all, or one each.
        num: number of spatial dimensions.

    Returns:
        One number each.

    Raises:
        ValueError: if their number does not fit or one is not positive.
    """
    given: list[Any] = np.ravel(value).tolist()
    values = tuple(given) * (num if np.ndim(value) == 0 else 1)
    if len(values) != num:
        msg = (
            f"{name}={values} has {len(values)} values, but the input has {num} "
            "spatial dimensions: give one number, or one for each"
        )
        raise ValueError(msg)
    if not all(isinstance(v, int) and v >= 1 for v in values):
        msg = f"{name}={values} must be whole numbers of at least 1"
        raise ValueError(msg)
    return values


def resolve_padding(
    padding: Padding,
    spatial: Sequence[int],
    extent: Sequence[int],
    strides: Sequence[int],
) -> Pairs:
    """Spell padding out as (before, after) per spatial dimension.

    Args:
        padding: as `make_geometry` takes it.
        spatial: spatial size of the input.
        extent: input positions that one patch spans.
        strides: per spatial dimension.

    Returns:
        (before, after) per spatial dimension.

    Raises:
        ValueError: if it is another string or has another form.
    """
    given: Any = padding.tolist() if isinstance(padding, _NUMPY) else padding
    if isinstance(given, str):
        if given.upper() not in PADDINGS:
            known = ", ".join(map(repr, PADDINGS))
            msg = f"padding={given!r} is not known: give {known}, integers or pairs"
            raise ValueError(msg)
        pairs: Any = lax.padtype_to_pads(spatial, extent, strides, given.upper())
    elif isinstance(given, numbers.Integral):
        pairs = [(given, given)] * len(spatial)
    else:
        pairs = [(p, p) if isinstance(p, numbers.Integral) else tuple(p) for p in given]
    if len(pairs) != len(spatial) or any(len(pair) != 2 for pair in pairs):
        msg = (
            f"padding={given!r} does not fit {len(spatial)} spatial dimensions: give a "
            "(before, after) pair for each, one number for all, 'SAME' or 'VALID'"
        )
        raise ValueError(msg)
    return tuple((int(before), int(after)) for before, after in pairs)
