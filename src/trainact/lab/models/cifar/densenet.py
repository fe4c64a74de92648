"""DenseNet-BC for 32x32 images: Huang et al., 2016.

torchvision's has another stem, and a ReLU in every transition.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from trainact.lab.models.cifar.blocks import Concat, chain, make_head, relu


def _layer(channels: int, growth: int) -> nn.Module:
    inner = 4 * growth
    branch = nn.Sequential(
        nn.BatchNorm2d(channels),
        relu(),
        nn.Conv2d(channels, inner, 1, bias=False),
        nn.BatchNorm2d(inner),
        relu(),
        nn.Conv2d(inner, growth, 3, padding=1, bias=False),
    )
    return Concat(nn.Identity(), branch)


def _transition(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(channels),
        nn.Conv2d(channels, channels // 2, 1, bias=False),
        nn.AvgPool2d(2),
    )


def densenet(
    num_classes: int, *, depths: tuple[int, ...], growth: int = 32
) -> nn.Module:
    """Build a DenseNet.

    Unlike the ImageNet network: the stem is a 3x3 convolution alone, at stride 1, and
    a transition is batch norm, 1x1 convolution and mean pooling, without a ReLU.

    Args:
        num_classes: number of outputs.
        depths: layers in each dense block.
        growth: channels that a layer adds.

    Returns:
        The network.
    """
    channels = 2 * growth
    stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
    body = nn.Sequential()
    for index, depth in enumerate(depths):
        if index > 0:
            body.append(_transition(channels))
            channels //= 2
        for _ in range(depth):
            body.append(_layer(channels, growth))
            channels += growth
    return chain(
        conv1=stem,
        body=body,
        norm=nn.BatchNorm2d(channels),
        act=relu(),
        head=make_head(channels, num_classes),
    )


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "densenet121": partial(densenet, depths=(6, 12, 24, 16)),
    "densenet161": partial(densenet, depths=(6, 12, 36, 24), growth=48),
    "densenet201": partial(densenet, depths=(6, 12, 48, 32)),
}
