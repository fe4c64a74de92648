"""JAX's axes and settings in the method's terms.

JAX names the axes of input, kernel and output (``NHWC``, ``HWIO``, ``NHWC``).
Statistics are formed of inputs with channels before spatial dimensions, and nothing
after `InputLayout.order` knows of another order.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jax import Array, lax
from jax.export import is_symbolic_dim

from trainact.geometry import Geometry, make_geometry

Padding = str | int | Sequence[int] | Sequence[tuple[int, int]]
PADDINGS = ("SAME", "SAME_LOWER", "VALID")


class InputLayout(NamedTuple):
    """How a layer cuts an input into rows whose axes are in the user's order.

    Attributes:
        geometry: of the layer.
        axes: where the input has its leading axes, its channels, its spatial
            dimensions.
    """

    geometry: Geometry
    axes: tuple[int, ...]

    def order(self, x: Array) -> Array:
        """Bring an input into the method's order, ``[..., C, *spatial]``."""
        return lax.transpose(x, self.axes)

    def has_rows(self, x: Array) -> bool:
        """Whether the layer makes rows of this input: it has images that fit."""
        shape = [x.shape[axis] for axis in self.axes]
        return self.geometry.fits(shape) and bool(self.geometry.num_rows(shape))


def dense_layout(x: Array) -> InputLayout:
    """The layout of a dense layer's input: every vector is a row."""
    return InputLayout(Geometry(x.shape[-1]), tuple(range(x.ndim)))


def conv_layout(
    shape: Sequence[int],
    axes: tuple[int, ...],
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    padding: Padding,
    dilation: int | Sequence[int],
    groups: int,
) -> InputLayout:
    """Build and check the layout of a convolution's input.

    Args:
        shape: of the input.
        axes: where the input has its batch, its channels, its spatial dimensions.
        kernel_size: one number for all spatial dimensions, or one each.
        stride: likewise.
        padding: likewise, or a (before, after) pair each, or ``'SAME'``,
            ``'SAME_LOWER'`` or ``'VALID'``, as `jax.lax` defines them.
        dilation: one number for all spatial dimensions, or one each.
        groups: channel groups.

    Returns:
        The layout.

    Raises:
        ValueError: if a spatial size is symbolic, groups do not divide the channels, a
            number of values does not fit the spatial dimensions, or the padding is not
            known.
    """
    _, channels, *spatial = (shape[axis] for axis in axes)
    if any(map(is_symbolic_dim, spatial)):
        msg = (
            f"x has symbolic spatial sizes {tuple(spatial)}: only the batch may be "
            "symbolic, export with images of one size"
        )
        raise ValueError(msg)
    kernel, steps, dilations = (
        np.asarray(value).tolist() for value in (kernel_size, stride, dilation)
    )
    num = len(spatial)
    geometry = make_geometry(
        channels, kernel, steps, 0, dilations, groups, "zeros", num
    )
    pairs = _resolve_padding(padding, spatial, geometry)
    return InputLayout(replace(geometry, padding=pairs), axes)


def _resolve_padding(
    padding: Padding, spatial: Sequence[int], geometry: Geometry
) -> tuple[tuple[int, int], ...]:
    """Spell padding out as (before, after) per spatial dimension."""
    is_numpy = isinstance(padding, np.ndarray | np.generic)
    given: Any = padding.tolist() if is_numpy else padding
    if isinstance(given, str):
        if given.upper() not in PADDINGS:
            known = ", ".join(map(repr, PADDINGS))
            msg = f"padding={given!r} is not known: give {known}, integers or pairs"
            raise ValueError(msg)
        pairs: Any = lax.padtype_to_pads(
            spatial, geometry.extent, geometry.stride, given.upper()
        )
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
