"""The paper's CIFAR networks: ``cifar:NAME``, for 3 x 32 x 32 images.

The networks of Tables 1, 6 and 7, a file for each family, and those of the figures:
``resnet18-maxpool`` and ``vit``.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from trainact.lab.errors import LabError
from trainact.lab.models.cifar import (
    densenet,
    googlenet,
    inception_resnet_v2,
    inception_v3,
    inception_v4,
    mobilenet,
    mobilenetv2,
    nasnet,
    resnet,
    resnext,
    senet,
    shufflenet,
    shufflenetv2,
    squeezenet,
    stochastic_depth,
    vgg,
    vit,
    wideresnet,
    xception,
)

_FAMILIES = (
    squeezenet,
    mobilenet,
    mobilenetv2,
    shufflenet,
    shufflenetv2,
    vgg,
    densenet,
    googlenet,
    inception_v3,
    inception_v4,
    inception_resnet_v2,
    xception,
    resnet,
    resnext,
    senet,
    nasnet,
    wideresnet,
    stochastic_depth,
    vit,
)
MODELS: dict[str, Callable[[int], nn.Module]] = {
    name: build for family in _FAMILIES for name, build in family.MODELS.items()
}
_IMAGE_SHAPE = (3, 32, 32)


def names() -> list[str]:
    """List the networks.

    Returns:
        Their names.
    """
    return list(MODELS)


def build(name: str, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Build a network with random weights.

    Args:
        name: a key of `MODELS`.
        image_shape: channels, height and width.
        num_classes: number of outputs.

    Returns:
        The network.

    Raises:
        LabError: if the images are not of CIFAR's shape.
    """
    if image_shape != _IMAGE_SHAPE:
        shape = " x ".join(map(str, image_shape))
        raise LabError(
            f"cifar:{name} is for images of 3 x 32 x 32 and these have {shape}: give "
            "--image-size 32, or a model of torchvision or timm"
        )
    return MODELS[name](num_classes)
