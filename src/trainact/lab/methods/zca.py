r"""ZCA-whitened inputs: every image is decorrelated before the model sees it.

    x ← E diag(1 / √(e + ε)) Eᵀ (x - μ),   E diag(e) Eᵀ the covariance

of 5,000 training images as vectors of all their pixels. A fixed linear map; buffers
``zca`` and ``zca_mean`` of the model hold it. ε = 0.1 for standardised images.

References:
    Bell, Sejnowski: The "independent components" of natural scenes are edge filters,
    Vision Research 37(23), 1997. Krizhevsky: Learning multiple layers of features from
    tiny images, 2009.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trainact.lab.methods.base import Method, MethodSettings
from trainact.lab.methods.whitening import NUM_IMAGES
from trainact.lab.survey import MAX_ENTRIES
from trainact.precision import full_precision

EPS = 0.1


def zca_matrix(images: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the map of a set of images.

    Args:
        images: ``[k, ...]``.

    Returns:
        (matrix ``[n, n]``, mean ``[n]``), float64.
    """
    flat = images.flatten(1).double()
    mean = flat.mean(0)
    centred = flat - mean
    values, vectors = torch.linalg.eigh(centred.mT @ centred / len(flat))
    scales = (values.clamp(min=0) + EPS).rsqrt()
    return (vectors * scales) @ vectors.mT, mean


def whiten(model: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Whiten a model's input, as its forward pre-hook.

    Args:
        model: with the buffers.
        args: of its forward, the images first.

    Returns:
        The same with whitened images.
    """
    buffers: Any = model
    images, *rest = args
    with full_precision(images):
        flat = images.flatten(1).to(buffers.zca.dtype) - buffers.zca_mean
        whitened = (flat @ buffers.zca).reshape(images.shape).to(images.dtype)
    if not images.is_contiguous():  # channels_last is kept
        whitened = torch.empty_like(images).copy_(whitened)
    return whitened, *rest


def _convert(model: nn.Module, settings: MethodSettings) -> nn.Module:
    num_pixels = settings.example_input[0].numel()
    if num_pixels > MAX_ENTRIES:
        msg = (
            f"images of {num_pixels:,} values are too large to be whitened as a whole "
            f"(limit {MAX_ENTRIES:,}): take the method whitening, which whitens patches"
        )
        raise ValueError(msg)
    matrix, mean = zca_matrix(settings.images(NUM_IMAGES))
    like = settings.example_input
    model.register_buffer("zca", matrix.to(like))
    model.register_buffer("zca_mean", mean.to(like))
    model.register_forward_pre_hook(whiten)
    return model


ZCA = Method(
    name="zca",
    uses_lam=False,
    convert=_convert,
    summary="images whitened as a whole (ZCA)",
)
