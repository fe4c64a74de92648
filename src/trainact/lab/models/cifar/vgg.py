"""VGG for 32x32 images: Simonyan and Zisserman, 2014, with batch norm.

torchvision's networks differ in the first linear layer and the initialisation only, but
to build one of them is to draw 100 million weights of that layer and throw them away.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from trainact.lab.models.cifar.blocks import ConvNormAct, chain, relu

_WIDTHS = (64, 128, 256, 512, 512)
_HIDDEN = 4096


def _features(depths: tuple[int, ...]) -> nn.Sequential:
    channels = 3
    features = nn.Sequential()
    for width, depth in zip(_WIDTHS, depths, strict=True):
        for _ in range(depth):
            features.extend(ConvNormAct(channels, width, 3, bias=True))
            channels = width
        features.append(nn.MaxPool2d(2))
    return features


def vgg(num_classes: int, *, depths: tuple[int, ...]) -> nn.Module:
    """Build a VGG.

    Unlike the ImageNet network: the last feature map is 1x1, so the first linear layer
    has 512 inputs.

    Args:
        num_classes: number of outputs.
        depths: convolutions in each of the five stages.

    Returns:
        The network.
    """
    classifier = nn.Sequential(
        nn.Linear(_WIDTHS[-1], _HIDDEN),
        relu(),
        nn.Dropout(),
        nn.Linear(_HIDDEN, _HIDDEN),
        relu(),
        nn.Dropout(),
        nn.Linear(_HIDDEN, num_classes),
    )
    return chain(
        features=_features(depths), flatten=nn.Flatten(), classifier=classifier
    )


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "vgg11": partial(vgg, depths=(1, 1, 2, 2, 2)),
    "vgg13": partial(vgg, depths=(2, 2, 2, 2, 2)),
    "vgg16": partial(vgg, depths=(2, 2, 3, 3, 3)),
    "vgg19": partial(vgg, depths=(2, 2, 4, 4, 4)),
}
