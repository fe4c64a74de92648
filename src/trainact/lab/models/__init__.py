"""Models by name: five small built-in ones, all of torchvision and timm, the paper's.

A bare name is looked up among the built-in models, then torchvision, timm, the
paper's CIFAR networks and DeiT III; ``torchvision:NAME``, ``timm:NAME``,
``cifar:NAME`` and ``deit3:NAME`` choose the source.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from trainact.lab.errors import LabError, did_you_mean
from trainact.lab.models import (
    cifar,
    deit3,
    mlp,
    small_cnn,
    small_mixer,
    small_patches,
    small_resnet,
    small_vit,
    zoo,
)

__all__ = ["BUILT_IN", "SOURCES", "build_model", "resolve_model"]

Builder = Callable[[tuple[int, int, int], int], nn.Module]
BUILT_IN: dict[str, Builder] = {
    "small-cnn": small_cnn.build,
    "mlp": mlp.build,
    "small-resnet": small_resnet.build,
    "small-vit": small_vit.build,
    "small-mixer": small_mixer.build,
    **{
        f"small-patches-{patch}": partial(small_patches.build, patch=patch)
        for patch in small_patches.PATCHES
    },
}
SOURCES = {
    "torchvision": (zoo.torchvision_names, zoo.build_torchvision),
    "timm": (zoo.timm_names, zoo.build_timm),
    "cifar": (cifar.names, cifar.build),
    "deit3": (deit3.names, deit3.build),
}


def resolve_model(name: str) -> str:
    """Say in full which model a name means.

    Args:
        name: ``small-cnn``, ``resnet18``, ``timm:resnet18`` and so on.

    Returns:
        A built-in name, or one with its source, such as ``timm:resnet18``.

    Raises:
        LabError: if no source knows the name.
    """
    if name in BUILT_IN:
        return name
    source, _, bare = name.rpartition(":")
    if source and source not in SOURCES:
        raise LabError(
            f"model {name!r}: {source!r} is not a source of models; write "
            f"torchvision:{bare}, timm:{bare}, cifar:{bare} or deit3:{bare}"
        )
    known = set(BUILT_IN)
    for candidate in [source] if source else list(SOURCES):
        names = SOURCES[candidate][0]()
        if bare in names:
            return f"{candidate}:{bare}"
        known.update(names)
    raise LabError(
        f"model {name!r} is not known{did_you_mean(bare, known)}: give "
        f"{', '.join(BUILT_IN)}, cifar:NAME, deit3:NAME, or a name from "
        "torchvision or timm"
    )


def build_model(
    name: str,
    image_shape: tuple[int, int, int],
    num_classes: int,
    drop_path: float = 0.0,
) -> nn.Module:
    """Build a model with random weights from torch's global generator.

    Args:
        name: as `resolve_model` returns it.
        image_shape: channels, height and width of the data.
        num_classes: number of classes of the data.
        drop_path: rate of stochastic depth, the same in all blocks.

    Returns:
        The model.

    Raises:
        LabError: if it has no stochastic depth of such a kind and is to have it.
    """
    source, _, bare = name.partition(":")
    if source == "deit3":
        return deit3.build(bare, image_shape, num_classes, drop_path)
    if drop_path:
        raise LabError(
            f"model {name}: stochastic depth of the same rate {drop_path:g} in all "
            "blocks is for deit3:NAME alone; leave it out or give such a model"
        )
    if name in BUILT_IN:
        return BUILT_IN[name](image_shape, num_classes)
    return SOURCES[source][1](bare, image_shape, num_classes)
