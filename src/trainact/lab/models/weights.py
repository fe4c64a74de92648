"""Weights of a trained network for the same network with other images or classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from trainact.lab.errors import LabError

_POSITIONS = "pos_embed"


def load_weights(model: nn.Module, state_dict: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Give a network the weights of one that may have seen other images or classes.

    Learned positions of patches are interpolated (bicubic, without antialiasing, as
    DeiT does). The last layer keeps its own weights if it has another number of
    outputs.

    Args:
        model: changed in place.
        state_dict: of the same network, but for its image size and its classes; it
            stays as it is.

    Returns:
        The names that kept their own values.

    Raises:
        LabError: if it is of another network.
    """
    own = model.state_dict()
    weights = {**state_dict, **_interpolated_positions(model, state_dict)}
    _check_names(own, weights)
    differing = [name for name in own if own[name].shape != weights[name].shape]
    if not _is_one_last_layer(differing, own, weights):
        name = differing[0]
        raise LabError(
            f"these weights are of another network: {name} has the shape "
            f"{_shape(weights[name])} in them and {_shape(own[name])} in the model"
            f"{_and_others(differing)}; give weights of the same network"
        )
    for name in differing:
        del weights[name]
    model.load_state_dict(weights, strict=False)
    return tuple(differing)


def _interpolated_positions(
    model: Any, state_dict: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The positions for the model's own image size, where it is one of timm's ViTs."""
    if _POSITIONS not in state_dict or not hasattr(model, "patch_embed"):
        return {}
    given, own = state_dict[_POSITIONS], model.pos_embed
    if given.shape == own.shape or given.shape[::2] != own.shape[::2]:
        return {}
    from timm.layers.pos_embed import resample_abs_pos_embed

    size = model.patch_embed.grid_size
    num_others = own.shape[1] - size[0] * size[1]
    _check_square(given.shape[1] - num_others)
    resampled = resample_abs_pos_embed(
        given, size, num_prefix_tokens=num_others, antialias=False
    )
    return {_POSITIONS: resampled}


def _check_square(num_patches: int) -> None:
    if num_patches < 1 or round(num_patches**0.5) ** 2 != num_patches:
        raise LabError(
            f"these weights have positions of {num_patches} patches, which make no "
            "square image and cannot be interpolated: give weights from square images"
        )


def _check_names(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    missing = [name for name in own if name not in weights]
    unknown = [name for name in weights if name not in own]
    parts = [
        f"{names[0]} {what}{_and_others(names)}"
        for names, what in (
            (missing, "is not in them"),
            (unknown, "is not in the model"),
        )
        if names
    ]
    if parts:
        raise LabError(
            f"these weights are of another network: {', '.join(parts)}; give weights "
            "of the same network"
        )


def _is_one_last_layer(
    names: Iterable[str], own: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> bool:
    """Whether the shapes differ in the number of outputs of at most one layer."""
    # Were it not the last layer, the next one would differ in its number of inputs.
    layers = {name.rpartition(".")[0] for name in names}
    return len(layers) <= 1 and all(
        own[name].shape[1:] == weights[name].shape[1:] and own[name].ndim > 0
        for name in names
    )


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"


def _and_others(names: list[str]) -> str:
    return f" (and {len(names) - 1} others)" if len(names) > 1 else ""
