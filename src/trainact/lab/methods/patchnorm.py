"""PatchNorm, the rival of the paper's Fig. 7: each patch has mean 0 and std 1.

    z = W (x - mean(x)) / sqrt(var(x) + eps) + bias

with mean and variance over the n entries x of a patch as the layer sees it (divided by
n, not n - 1), border and channels included; of one group, where the layer has groups.
The same in training and inference; nothing to learn, nothing new in the state dict.

The patches are written out before they are normalised. The shorter ways through the
layer's own convolution, ``(conv(x, W) - mean ΣW) / std`` or centred rows of W, subtract
or round at the scale of the image what is then divided by the std of a patch: in a flat
patch of a bright image float32 loses its last digits so, and bfloat16 all of them. The
price is memory, kernel positions / strides times the input.

Legend: G groups, N rows (images x positions), P entries of a patch in one group, O
outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainact.geometry import Geometry, layer_geometry
from trainact.gram.patches import extract_patches
from trainact.lab.methods.base import Method, MethodSettings
from trainact.lab.methods.first_layer import (
    change_class,
    find_first_layer,
)

# The paper gives none; this is the one of torch's LayerNorm.
EPS = 1e-5


class PatchNormLayer(nn.Module):
    """The forward pass that is common to all layers with normalised patches."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer to normalised patches.

        Args:
            input: as the plain layer takes it.

        Returns:
            In the shape and memory format of the plain layer's output.
        """
        layer: Any = self
        geometry = layer_geometry(self)
        rows_GNP = self.normalise(extract_patches(input, geometry))
        z_NO = _apply_per_group(rows_GNP, layer.weight, layer.bias)
        return _as_output(self.finish(z_NO), input, geometry)

    def normalise(self, rows_GNP: Tensor) -> Tensor:
        """Bring every row to mean 0 and std 1.

        Args:
            rows_GNP: patches.

        Returns:
            Patches.
        """
        return F.layer_norm(rows_GNP, rows_GNP.shape[-1:], eps=EPS)

    def finish(self, z_NO: Tensor) -> Tensor:
        """Leave the outputs as they are; a subclass may not.

        Args:
            z_NO: one row for each patch.

        Returns:
            The same shape.
        """
        return z_NO


class PatchNormLinear(PatchNormLayer, nn.Linear):
    """`torch.nn.Linear` on vectors with mean 0 and std 1."""


class PatchNormConv1d(PatchNormLayer, nn.Conv1d):
    """`torch.nn.Conv1d` on patches with mean 0 and std 1."""


class PatchNormConv2d(PatchNormLayer, nn.Conv2d):
    """`torch.nn.Conv2d` on patches with mean 0 and std 1."""


class PatchNormConv3d(PatchNormLayer, nn.Conv3d):
    """`torch.nn.Conv3d` on patches with mean 0 and std 1."""


def check_patches(name: str, layer: nn.Module) -> None:
    """Refuse patches that have no standard deviation.

    Args:
        name: of the layer.
        layer: with a weight.

    Raises:
        ValueError: if a patch has one entry.
    """
    weight: Any = layer.weight
    if weight[0].numel() == 1:
        msg = f"layer {name!r} has patches of one value: normalised they would all be 0"
        raise ValueError(msg)


def _apply_per_group(rows_GNP: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    weight_GOP = weight.reshape(len(rows_GNP), -1, rows_GNP.shape[-1])
    z_NO = torch.bmm(rows_GNP, weight_GOP.mT).transpose(0, 1).flatten(1)
    # Under autocast z has 16 bits and the bias 32.
    return z_NO if bias is None else z_NO + bias.to(z_NO.dtype)


def _as_output(z_NO: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
    channel_dim = x.ndim - geometry.num_spatial - 1
    positions = geometry.output_size(x.shape[channel_dim + 1 :])
    z = z_NO.reshape(*x.shape[:channel_dim], *positions, z_NO.shape[1])
    z = z.movedim(-1, channel_dim)
    return z.contiguous() if x.is_contiguous() else z


CLASSES: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: PatchNormLinear,
    nn.Conv1d: PatchNormConv1d,
    nn.Conv2d: PatchNormConv2d,
    nn.Conv3d: PatchNormConv3d,
}


def _convert(model: nn.Module, settings: MethodSettings) -> nn.Module:
    name, layer = find_first_layer(model, settings)
    check_patches(name, layer)
    change_class(layer, CLASSES)
    return model


PATCHNORM = Method(
    name="patchnorm",
    uses_lam=False,
    convert=_convert,
    summary="each patch that the first layer sees has mean 0 and std 1",
)
