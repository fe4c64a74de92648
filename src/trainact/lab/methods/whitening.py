"""Frozen input whitening, as fast CIFAR trainers use it: decorrelated patches.

    z = W (V x) + bias,   V = diag(1 / sqrt(e + eps)) Eᵀ,   E diag(e) Eᵀ = XᵀX / b

where the b rows of X are the patches x of 5,000 training images as the layer sees
them, border included; one V for each group. V is computed once and frozen, a buffer
``whitening`` of the layer; W, the layer's own weight, starts as the model made it and
is trained. What the layer computes with is W V, made anew in every forward pass.

The form is Page's, a frozen 3x3 convolution that whitens and a learned 1x1 one, in a
single layer: the number and size of the layer's weights stay. With TrAct, G becomes
G (V A Vᵀ + λI)⁻¹ with A of the batch.

Legend: G groups, P entries of a patch in one group, O outputs.

References:
    Page: How to train your ResNet 8, Bag of tricks (2019), repository cifar10-fast.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainact.factor import Factor
from trainact.functional import factor_from_gram, precondition
from trainact.geometry import layer_geometry
from trainact.lab.methods.base import Method, MethodSettings
from trainact.lab.methods.first_layer import (
    change_class,
    find_first_layer,
)
from trainact.lab.methods.rules import refuse_ranks
from trainact.lab.methods.tract import lam_of
from trainact.lab.survey import MAX_ENTRIES, survey
from trainact.precision import full_precision
from trainact.statistics.operators import gram

# Page's and hlb-CIFAR10's, for standardised images; airbench's is 5e-4.
EPS = 1e-2
# As airbench; Page takes the 10,000 first.
NUM_IMAGES = 5000
_BATCH = 500


class WhitenedLayer(nn.Module):
    """What layers on whitened patches share."""

    whitening: Tensor
    lam: float | None = None

    def effective_weight(self, x: Tensor) -> Tensor:
        """Make the weight that meets the input.

        Args:
            x: the input.

        Returns:
            W V, in the shape of W; under TrAct W is marked for the rows V x.
        """
        layer: Any = self
        weight: Tensor = layer.weight
        is_trained = self.training and torch.is_grad_enabled()
        if self.lam is not None and is_trained and x.numel():
            weight = precondition(weight, self._factor(x, self.lam))
        num_groups, num_entries, _ = self.whitening.shape
        weight_GOP = weight.reshape(num_groups, -1, num_entries)
        # V stretches some directions ten times more than others: not in 16 bits.
        with full_precision(weight):
            return (weight_GOP @ self.whitening).reshape(weight.shape)

    @torch.no_grad()
    def _factor(self, x: Tensor, lam: float) -> Factor:
        """Of the second moment of whitened rows, V A Vᵀ."""
        geometry = layer_geometry(self)
        with full_precision(x):
            moment_GPP = gram(x, geometry) / geometry.num_rows(x.shape)
            whitening = self.whitening.to(moment_GPP.dtype)
            whitened_GPP = whitening @ moment_GPP @ whitening.mT
        return factor_from_gram(whitened_GPP, lam)


class WhitenedLinear(WhitenedLayer, nn.Linear):
    """`torch.nn.Linear` on whitened vectors."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            input: as the plain layer takes it.

        Returns:
            Of the same shape as the plain layer's output.
        """
        return F.linear(input, self.effective_weight(input), self.bias)


class _WhitenedConv(WhitenedLayer):
    """The part that is common to all numbers of spatial dimensions."""

    def forward(self, input: Tensor) -> Tensor:
        layer: Any = self
        return layer._conv_forward(input, self.effective_weight(input), layer.bias)


class WhitenedConv1d(_WhitenedConv, nn.Conv1d):
    """`torch.nn.Conv1d` on whitened patches."""


class WhitenedConv2d(_WhitenedConv, nn.Conv2d):
    """`torch.nn.Conv2d` on whitened patches."""


class WhitenedConv3d(_WhitenedConv, nn.Conv3d):
    """`torch.nn.Conv3d` on whitened patches."""


CLASSES: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: WhitenedLinear,
    nn.Conv1d: WhitenedConv1d,
    nn.Conv2d: WhitenedConv2d,
    nn.Conv3d: WhitenedConv3d,
}


def whitening_matrix(moment_GPP: Tensor) -> Tensor:
    """Decompose a second moment into the map that whitens.

    Args:
        moment_GPP: XᵀX / b.

    Returns:
        V, float64, directions in the order of ascending eigenvalues.
    """
    values_GP, vectors_GPP = torch.linalg.eigh(moment_GPP.double())
    scales_GP = (values_GP.clamp(min=0) + EPS).rsqrt()
    return scales_GP[..., None] * vectors_GPP.mT


def _whiten(model: nn.Module, settings: MethodSettings) -> Any:
    """Whiten what the first layer sees, and return that layer."""
    name, found = find_first_layer(model, settings)
    layer: Any = found
    moment_GPP = _second_moment(model, name, layer, settings.images(NUM_IMAGES))
    whitening = whitening_matrix(moment_GPP).to(layer.weight)
    layer.register_buffer("whitening", whitening)
    change_class(layer, CLASSES)
    return layer


def _convert(model: nn.Module, settings: MethodSettings) -> nn.Module:
    _whiten(model, settings)
    return model


def _convert_with_tract(model: nn.Module, settings: MethodSettings) -> nn.Module:
    refuse_ranks(settings)
    _whiten(model, settings).lam = lam_of(settings)
    return model


def _second_moment(
    model: nn.Module, name: str, layer: nn.Module, images: Tensor
) -> Tensor:
    """XᵀX / b of what the images become on their way to the layer."""
    modes = {module: module.training for module in model.modules()}
    try:
        seen = survey(model, {name: layer}, images.split(_BATCH))[name]
    finally:
        for module, mode in modes.items():
            module.training = mode
    if seen.num_rows == 0:
        msg = f"the model does not call layer {name!r}: name its first layer"
        raise ValueError(msg)
    if seen.products is None:
        msg = (
            f"layer {name!r} has patches of {seen.num_entries} entries: whitening "
            f"decomposes matrices of up to {MAX_ENTRIES}"
        )
        raise ValueError(msg)
    return seen.products / seen.num_rows


WHITENING = Method(
    name="whitening",
    uses_lam=False,
    convert=_convert,
    summary="frozen whitening of the first layer's patches",
)
WHITENING_TRACT = Method(
    name="whitening+tract",
    uses_lam=True,
    convert=_convert_with_tract,
    summary="frozen whitening, and TrAct on the weight that sees whitened patches",
)
