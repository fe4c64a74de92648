"""Models by name: three small built-in ones, all of torchvision and timm, the paper's.

A bare name is looked up among the built-in models, then torchvision, timm and the
paper's CIFAR networks; ``torchvision:NAME``, ``timm:NAME`` and ``cifar:NAME`` choose
the source.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from trainact.lab.errors import LabError, did_you_mean
from trainact.lab.models import cifar, mlp, small_cnn, small_vit, zoo

__all__ = ["BUILT_IN", "SOURCES", "build_model", "resolve_model"]

Builder = Callable[[tuple[int, int, int], int], nn.Module]
BUILT_IN: dict[str, Builder] = {
    "small-cnn": small_cnn.build,
    "mlp": mlp.build,
    "small-vit": small_vit.build,
}
SOURCES = {
    "torchvision": (zoo.torchvision_names, zoo.build_torchvision),
    "timm": (zoo.timm_names, zoo.build_timm),
    "cifar": (cifar.names, cifar.build),
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
            f"torchvision:{bare}, timm:{bare} or cifar:{bare}"
        )
    known = set(BUILT_IN)
    for candidate in [source] if source else list(SOURCES):
        names = SOURCES[candidate][0]()
        if bare in names:
            return f"{candidate}:{bare}"
        known.update(names)
    raise LabError(
        f"model {name!r} is not known{did_you_mean(bare, known)}: give "
        f"{', '.join(BUILT_IN)}, cifar:NAME, or a name from torchvision or timm"
    )


def build_model(
    name: str, image_shape: tuple[int, int, int], num_classes: int
) -> nn.Module:
    """Build a model with random weights from torch's global generator.

    Args:
        name: as `resolve_model` returns it.
        image_shape: channels, height and width of the data.
        num_classes: number of classes of the data.

    Returns:
        The model.
    """
    if name in BUILT_IN:
        return BUILT_IN[name](image_shape, num_classes)
    source, _, bare = name.partition(":")
    return SOURCES[source][1](bare, image_shape, num_classes)
