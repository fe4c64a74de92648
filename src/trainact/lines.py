"""The lines of an image: unfolded in all dimensions but the one to shift along.

Legend: b images, G groups, T steps of a kernel, Q = T - 1, O output lines, M entries of
a line (phases x C / G x other kernel positions), W other output positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from trainact.geometry import Geometry
from trainact.patches import pad, windows
from trainact.precision import statistics_dtype
from trainact.products import tile_bytes


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


class Piece(NamedTuple):
    """The lines of some images, or a part of one image's.

    Attributes:
        lines: ``[b, G, M, O + Q, W]``.
        has_first: whether it starts with the image's first line.
        has_last: whether it ends with the image's last line.
    """

    lines: Tensor
    has_first: bool
    has_last: bool


def pieces(x: Tensor, geometry: Geometry, layout: Layout) -> Iterator[Piece]:
    """Copy a batch's lines, as many as fit into a tile at a time.

    Args:
        x: ``[B, C, *spatial]``, at least one image.
        geometry: of the layer.
        layout: of its kernel along one dimension.

    Yields:
        Pieces that hold every output position once.
    """
    outputs = geometry.output_size(x.shape[2:])
    num_lines = outputs[layout.dim] + layout.num_border
    width = math.prod(outputs) // outputs[layout.dim]
    image = geometry.groups * layout.line_entries * num_lines * width
    budget = max(1, tile_bytes(x) // 4)
    for images in x.split(max(1, budget // image)):
        padded = pad(images.to(statistics_dtype(x)), geometry)
        view = line_view(padded, geometry, layout, num_lines)
        cut = _cut_signal if geometry.num_spatial == 1 else _cut_image
        for part, *ends in cut(view, geometry, layout, math.ceil(image / budget)):
            count = part.shape[-geometry.num_spatial]
            shape = (geometry.groups, layout.line_entries, count)
            lines = part.reshape(len(part), *shape, -1).contiguous()
            yield Piece(lines, *ends)


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


def _cut_image(
    view: Tensor, geometry: Geometry, layout: Layout, count: int
) -> Iterator[tuple[Tensor, bool, bool]]:
    """Along another dimension than the lines', where parts do not overlap."""
    del layout
    axis = 1 - geometry.num_spatial
    for part in view.split(math.ceil(view.shape[axis] / count), dim=axis):
        yield part, True, True


def _cut_signal(
    view: Tensor, geometry: Geometry, layout: Layout, count: int
) -> Iterator[tuple[Tensor, bool, bool]]:
    """Along the lines, the only dimension; parts share what their kernels share."""
    del geometry
    outputs = view.shape[-1] - layout.num_border
    size = math.ceil(outputs / count)
    for start in range(0, outputs, size):
        end = min(start + size, outputs)
        yield view[..., start : end + layout.num_border], start == 0, end == outputs


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
