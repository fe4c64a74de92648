"""Dual PatchNorm, the other rival of the paper's Fig. 7: layer norms on both sides.

    z = LayerNorm(W LayerNorm(x) + bias)

for each patch x of n entries: the first layer norm has n scales and biases, the second
as many as the layer has outputs; all are learned, and in the state dict as
``pre_norm`` and ``post_norm`` of the layer. They start at 1 and 0, where the first one
is PatchNorm.

References:
    Kumar, Dehghani, Houlsby: Dual PatchNorm, TMLR 2023.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from trainact.lab.methods.base import Method, MethodSettings
from trainact.lab.methods.first_layer import change_class, find_first_layer
from trainact.lab.methods.patchnorm import EPS, PatchNormLayer, check_patches


class DualPatchNormLayer(PatchNormLayer):
    """The two layer norms; the rest is PatchNorm's."""

    pre_norm: nn.LayerNorm
    post_norm: nn.LayerNorm

    def normalise(self, rows_GNP: Tensor) -> Tensor:
        """Normalise every row, then scale and shift its entries.

        Args:
            rows_GNP: patches.

        Returns:
            Patches.
        """
        return self.pre_norm(rows_GNP)

    def finish(self, z_NO: Tensor) -> Tensor:
        """Normalise the outputs of every patch, then scale and shift them.

        Args:
            z_NO: one row for each patch.

        Returns:
            The same shape.
        """
        return self.post_norm(z_NO)


class DualPatchNormLinear(DualPatchNormLayer, nn.Linear):
    """`torch.nn.Linear` between two layer norms."""


class DualPatchNormConv1d(DualPatchNormLayer, nn.Conv1d):
    """`torch.nn.Conv1d` between two layer norms."""


class DualPatchNormConv2d(DualPatchNormLayer, nn.Conv2d):
    """`torch.nn.Conv2d` between two layer norms."""


class DualPatchNormConv3d(DualPatchNormLayer, nn.Conv3d):
    """`torch.nn.Conv3d` between two layer norms."""


CLASSES: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: DualPatchNormLinear,
    nn.Conv1d: DualPatchNormConv1d,
    nn.Conv2d: DualPatchNormConv2d,
    nn.Conv3d: DualPatchNormConv3d,
}


def _convert(model: nn.Module, settings: MethodSettings) -> nn.Module:
    name, found = find_first_layer(model, settings)
    check_patches(name, found)
    layer: Any = found
    if getattr(layer, "groups", 1) > 1:
        msg = (
            f"layer {name!r} has groups={layer.groups}: a layer norm with a scale for "
            "each entry is for whole patches; patchnorm takes groups"
        )
        raise ValueError(msg)
    num_outputs, num_entries = layer.weight.flatten(1).shape
    if num_outputs == 1:
        msg = f"layer {name!r} has one output: normalised it would always be 0"
        raise ValueError(msg)
    like = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    layer.pre_norm = nn.LayerNorm(num_entries, eps=EPS, **like)
    layer.post_norm = nn.LayerNorm(num_outputs, eps=EPS, **like)
    change_class(layer, CLASSES)
    return model


DUAL_PATCHNORM = Method(
    name="dual-patchnorm",
    uses_lam=False,
    convert=_convert,
    summary="learned layer norms before and after the first layer",
)
