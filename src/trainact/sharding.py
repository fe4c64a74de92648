"""Weights, gradients and inputs that are divided among ranks (DTensor).

The inverse is applied to each row of a gradient by itself, so a gradient that is
sharded over output channels is preconditioned where it lies, without a gather.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainact.factor import Factor, apply_factor
from trainact.geometry import Geometry


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a `torch.distributed.tensor.DTensor`."""
    return hasattr(tensor, "placements")


def local_input(x: Any, geometry: Geometry) -> tuple[Tensor, Any]:
    """This rank's part of a DTensor input, and the group that shares its samples.

    The group is None for an input that is replicated. Raises a RuntimeError if rows
    themselves are divided, as in row-wise parallelism.
    """
    samples = range(x.ndim - 1 - geometry.num_spatial)
    groups: list[Any] = []
    for dim, placement in enumerate(x.placements):
        if placement.is_replicate():
            continue
        if not placement.is_shard() or placement.dim not in samples or groups:
            msg = (
                f"the input of a layer under TrAct is placed as {x.placements}: TrAct "
                "needs whole rows, so replicate the input, or shard it over samples "
                "along one dimension of the mesh (column-wise parallelism does, "
                "row-wise does not)"
            )
            raise RuntimeError(msg)
        groups.append(x.device_mesh.get_group(dim))
    return x.to_local(), groups[0] if groups else None


def apply_to_rows(grad: Tensor, factor: Factor) -> None:
    """Precondition a gradient in place: DDP's buckets are views of it.

    It may be sharded over output channels. The factor is of the rows of all ranks.
    """
    local, start = _local_rows(grad)
    size = len(grad) // len(factor.inner)
    for group in range(len(factor.inner)):
        part = local[max(0, group * size - start) : max(0, (group + 1) * size - start)]
        own: list[Any] = [
            None if tensor is None else tensor[group, None] for tensor in factor
        ]
        part.copy_(apply_factor(part, *own))


def apply_to_gradient(grad: Tensor, factor: Factor) -> Tensor:
    """`apply_factor` for a gradient that may be sharded over output channels."""
    if not is_sharded(grad):
        return apply_factor(grad, *factor)
    if torch.is_grad_enabled():
        msg = (
            "TrAct cannot differentiate twice through a weight that is sharded among "
            "ranks: use a weight that is whole on each rank for gradient penalties"
        )
        raise RuntimeError(msg)
    result = grad.clone()
    apply_to_rows(result, factor)
    return result


def _local_rows(grad: Any) -> tuple[Tensor, int]:
    """This rank's rows of a gradient, and the index of the first."""
    if not is_sharded(grad):
        return grad, 0
    placements = grad.placements
    if any(p.is_shard() and p.dim != 0 for p in placements):
        msg = (
            f"the gradient is sharded as {placements}, across the entries of a row: "
            "shard over output channels (dimension 0)"
        )
        raise RuntimeError(msg)
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    mesh = grad.device_mesh
    _, offset = compute_local_shape_and_global_offset(grad.shape, mesh, placements)
    return grad.to_local(), offset[0]
