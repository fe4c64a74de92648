"""The lines of an image: unfolded in all dimensions but the one to shift along.

Legend: b images, n bands, G groups, T steps of a kernel, Q = T - 1, O output lines, o
of a band, M entries of a line (phases x C / G x other kernel positions), W other output
positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor
from torch.nn import functional as F

from trainact.geometry import Geometry
from trainact.gram.matmul import tile_bytes
from trainact.gram.patches import pad, windows
from trainact.precision import statistics_dtype

# Rows that one float32 sum runs over, about. Twice the rows, 1.2 times the error; half
# of them, and bands share more of their lines with each other.
SUM_ROWS = 2048


@dataclass(frozen=True)
class Layout:
    """Where a kernel's positions fall along one dimension.

    Position k of output line o is line ``o * stride + k * dilation`` of the image: line
    ``o + q`` if the stride's lines count as one, of which it is phase r.

    Attributes:
        dim: the spatial dimension.
        stride: of the convolution along it.
        steps: q of each kernel position.
        phases: r of each kernel position.
        phase_entries: C / G x kernel positions in the other dimensions.
    """

    dim: int
    stride: int
    steps: tuple[int, ...]
    phases: tuple[int, ...]
    phase_entries: int

    @property
    def num_border(self) -> int:
        """Q: lines that a kernel reaches beyond its first."""
        return self.steps[-1]

    @property
    def num_phases(self) -> int:
        """Phases that kernel positions fall on, from the first."""
        return max(self.phases) + 1

    @property
    def line_entries(self) -> int:
        """M."""
        return self.num_phases * self.phase_entries

    @property
    def last_entries(self) -> int:
        """Those of M that positions of the last step fall on; they come first."""
        positions = zip(self.steps, self.phases, strict=True)
        last = max(r for q, r in positions if q == self.num_border)
        return (last + 1) * self.phase_entries

    @property
    def shifts(self) -> tuple[int, ...]:
        """Every q' - q of two kernel positions, from zero."""
        return tuple(sorted({q - p for p in self.steps for q in self.steps if q >= p}))


def make_layout(geometry: Geometry, dim: int) -> Layout:
    """Lay a kernel out along one dimension.

    Args:
        geometry: of the layer.
        dim: the spatial dimension to shift along.

    Returns:
        The layout.
    """
    stride, size = geometry.stride[dim], geometry.kernel_size[dim]
    positions = [k * geometry.dilation[dim] for k in range(size)]
    return Layout(
        dim,
        stride,
        steps=tuple(p // stride for p in positions),
        phases=tuple(p % stride for p in positions),
        phase_entries=geometry.num_entries // size,
    )


def slabs(x: Tensor, geometry: Geometry, layout: Layout) -> Iterator[Tensor]:
    """View a batch as lines, some images and a part of their width at a time.

    Parts along the next dimension do not overlap, and are so narrow that bands of them
    are higher than what bands share.

    Args:
        x: ``[B, C, *spatial]``, at least one image.
        geometry: of the layer.
        layout: of its kernel along one dimension.

    Yields:
        Views, as `line_view` has them, of padded images.
    """
    outputs = geometry.output_size(x.shape[2:])
    num_lines = outputs[layout.dim] + layout.num_border
    width = math.prod(outputs) // outputs[layout.dim]
    height = min(outputs[layout.dim], 4 * layout.num_border)
    entries = geometry.groups * layout.line_entries * num_lines * width
    # Products of an image, in float32 and in float64, may be more than its lines.
    count = math.ceil(outputs[layout.dim] * width / SUM_ROWS)
    products = 3 * count * geometry.groups * layout.line_entries**2
    for images in x.split(max(1, _budget(x) // max(entries, products))):
        padded = pad(images.to(statistics_dtype(x)), geometry)
        view = line_view(padded, geometry, layout, num_lines)
        axis = 1 - geometry.num_spatial
        if axis == 0:
            yield view
        else:
            parts = max(1, math.ceil(width * height / SUM_ROWS))
            yield from view.split(math.ceil(view.shape[axis] / parts), dim=axis)


def bands(view: Tensor, geometry: Geometry, layout: Layout) -> Iterator[Tensor]:
    """Copy a slab's lines in bands, each with the lines that its kernels reach.

    Args:
        view: of lines.
        geometry: of the layer.
        layout: of its kernel along one dimension.

    Yields:
        ``[b, n, G, M, o + Q, W]``, contiguous, about a tile at a time; together they
        hold every output line once, in float32 sums of about `SUM_ROWS` rows a band.
    """
    axis, reach = view.ndim - geometry.num_spatial, layout.num_border
    outputs = view.shape[axis] - reach
    if outputs == 0:
        return
    width = math.prod(view.shape[axis + 1 :])
    size = math.ceil(outputs / math.ceil(outputs * width / SUM_ROWS))
    whole, rest = outputs // size * size, outputs % size
    # Without a copy: a band dimension behind the images, its lines where lines were.
    banded = view.narrow(axis, 0, whole + reach).unfold(axis, size + reach, size)
    banded = banded.movedim(axis, 1).movedim(-1, axis + 1)
    some = max(1, _budget(view) * banded.shape[1] // banded.numel())
    for part in banded.split(some, dim=1):
        yield copy_lines(part, geometry, layout)
    if rest:
        last = view.narrow(axis, whole, rest + reach)
        yield copy_lines(last.unsqueeze(1), geometry, layout)


def copy_lines(view: Tensor, geometry: Geometry, layout: Layout) -> Tensor:
    """Write lines out.

    Args:
        view: ``[b, n, G, phases, C / G, *other kernel positions, lines, *others]``.
        geometry: of the layer.
        layout: of its kernel along one dimension.

    Returns:
        ``[b, n, G, M, lines, W]``, contiguous.
    """
    height = view.shape[-geometry.num_spatial]
    shape = (*view.shape[:3], layout.line_entries, height, -1)
    return view.reshape(shape).contiguous()


def _budget(x: Tensor) -> int:
    """Entries of a tile."""
    return max(1, tile_bytes(x) // statistics_dtype(x).itemsize)


def line_view(
    padded: Tensor, geometry: Geometry, layout: Layout, num_lines: int
) -> Tensor:
    """View a padded batch as lines.

    Args:
        padded: ``[b, C, *spatial]`` with its border.
        geometry: of the layer.
        layout: of its kernel along one dimension.
        num_lines: O + Q.

    Returns:
        ``[b, G, phases, C / G, *other kernel positions, O + Q, *other outputs]``.
    """
    axis, num = 2 + layout.dim, geometry.num_spatial
    missing = num_lines * layout.stride - padded.shape[axis]
    if missing > 0:  # lines of the last step that no kernel position falls on
        padded = F.pad(padded, [0, 0] * (num - 1 - layout.dim) + [0, missing])
    whole = padded.narrow(axis, 0, num_lines * layout.stride)
    view = windows(whole, _without(geometry, layout.dim)).squeeze(axis + num)
    view = view.unflatten(axis, (num_lines, layout.stride))
    view = view.narrow(axis + 1, 0, layout.num_phases)
    view = view.unflatten(1, (geometry.groups, -1))
    # Now images, G, C / G, outputs with the phases behind their lines, other kernels.
    lines, phases = axis + 1, axis + 2
    others = [a for a in range(3, 4 + num) if a not in (lines, phases)]
    kernels = range(4 + num, view.ndim)
    return view.permute(0, 1, phases, 2, *kernels, lines, *others)


def _without(geometry: Geometry, dim: int) -> Geometry:
    """The geometry that leaves a dimension as it is."""

    def with_one(sizes: tuple[int, ...]) -> tuple[int, ...]:
        return (*sizes[:dim], 1, *sizes[dim + 1 :])

    return replace(
        geometry,
        kernel_size=with_one(geometry.kernel_size),
        stride=with_one(geometry.stride),
        dilation=with_one(geometry.dilation),
    )
