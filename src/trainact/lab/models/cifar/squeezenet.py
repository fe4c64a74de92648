"""SqueezeNet for 32x32 images: Iandola et al., 2016, with batch norm and bypasses."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from trainact.lab.models.cifar.blocks import Concat, ConvNormAct, Residual, chain


def _fire(in_channels: int, out_channels: int, squeezed: int) -> nn.Sequential:
    half = out_channels // 2
    return chain(
        squeeze=ConvNormAct(in_channels, squeezed, bias=True),
        expand=Concat(
            ConvNormAct(squeezed, half, bias=True),
            ConvNormAct(squeezed, half, 3, bias=True),
        ),
    )


def squeezenet(num_classes: int) -> nn.Module:
    """Build SqueezeNet.

    Unlike the ImageNet network: a 3x3 stem at stride 1, batch norm behind every
    convolution of a fire module, no dropout, and no ReLU behind the classifier.

    Args:
        num_classes: number of outputs.

    Returns:
        The network.
    """
    return chain(
        stem=nn.Sequential(*ConvNormAct(3, 96, 3, bias=True), nn.MaxPool2d(2)),
        fire2=_fire(96, 128, 16),
        fire3=Residual(_fire(128, 128, 16)),
        fire4=_fire(128, 256, 32),
        pool4=nn.MaxPool2d(2),
        fire5=Residual(_fire(256, 256, 32)),
        fire6=_fire(256, 384, 48),
        fire7=Residual(_fire(384, 384, 48)),
        fire8=_fire(384, 512, 64),
        pool8=nn.MaxPool2d(2),
        fire9=_fire(512, 512, 64),
        head=nn.Sequential(
            nn.Conv2d(512, num_classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        ),
    )


MODELS: dict[str, Callable[[int], nn.Module]] = {"squeezenet": squeezenet}
