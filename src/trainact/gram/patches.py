"""Explicit patches: views of them as strided windows, and copies of them as rows.

Legend: B batch, C input channels, G groups, N rows (B x output positions), P entries of
a patch within one group (C / G x kernel positions).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from trainact.geometry import Geometry


def batched(x: Tensor, geometry: Geometry) -> Tensor:
    """A layer's input as ``[B, C, *spatial]``, without a copy where it has strides."""
    if x.ndim == geometry.num_spatial + 2:
        return x
    return x[None] if geometry.num_spatial else x.reshape(-1, x.shape[-1])


def pad(x: Tensor, geometry: Geometry) -> Tensor:
    """Add the layer's border to a batch; ``x`` itself if there is none."""
    amounts = [size for pair in reversed(geometry.padding) for size in pair]
    if not any(amounts):
        return x
    mode = geometry.padding_mode
    return F.pad(x, amounts, "constant" if mode == "zeros" else mode)


def windows(padded: Tensor, geometry: Geometry) -> Tensor:
    """View every patch: ``[B, C, *output positions, *kernel positions]``, no copy."""
    view = padded
    for dim, (extent, stride) in enumerate(
        zip(geometry.extent, geometry.stride, strict=True)
    ):
        view = view.unfold(2 + dim, extent, stride)
    first_kernel_dim = 2 + geometry.num_spatial
    for dim, dilation in enumerate(geometry.dilation):
        if dilation > 1:
            index = [slice(None)] * view.ndim
            index[first_kernel_dim + dim] = slice(None, None, dilation)
            view = view[tuple(index)]
    return view


def columns_from_windows(view: Tensor, geometry: Geometry) -> Tensor:
    """Copy windows into X transposed, ``[G, P, N]``, P as ``weight.reshape(O, -1)``.

    The output positions run fastest, so that the copy moves whole image rows; measured
    on a CPU this took half the time of the row-major layout for a 3x3 kernel and was
    never slower.
    """
    spatial = geometry.num_spatial
    if spatial == 0:
        return view.mT[None]
    split = view.unflatten(1, (geometry.groups, -1))
    outputs = range(3, 3 + spatial)
    kernels = range(3 + spatial, 3 + 2 * spatial)
    ordered = split.permute(1, 2, *kernels, 0, *outputs)
    return ordered.reshape(geometry.groups, geometry.num_entries, -1)


def extract_patches(x: Tensor, geometry: Geometry) -> Tensor:
    """Unfold a layer's input into X, ``[G, N, P]``: the rows of the dual form.

    Cost: one copy of ``B x output positions x C x kernel positions`` entries, for an
    overlapping kernel many times the batch itself; none for a linear layer.
    """
    view = windows(pad(batched(x, geometry), geometry), geometry)
    return columns_from_windows(view, geometry).mT
