"""MobileNet for 32x32 images: Howard et al., 2017."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from trainact.lab.models.cifar.blocks import ConvNormAct, chain, make_head

# (channels, blocks) of each stage
_STAGES = ((128, 2), (256, 2), (512, 6), (1024, 2))


def _separable(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    return chain(
        depthwise=ConvNormAct(in_channels, in_channels, 3, stride, groups=in_channels),
        pointwise=ConvNormAct(in_channels, out_channels, bias=True),
    )


def mobilenet(num_classes: int) -> nn.Module:
    """Build MobileNet at full width.

    Unlike the ImageNet network: the stem has stride 1 and the pointwise convolutions
    have biases.

    Args:
        num_classes: number of outputs.

    Returns:
        The network.
    """
    channels = 64
    body = nn.Sequential()
    for out_channels, num_blocks in _STAGES:
        for stride in (2, *[1] * (num_blocks - 1)):
            body.append(_separable(channels, out_channels, stride))
            channels = out_channels
    return chain(
        stem=nn.Sequential(ConvNormAct(3, 32, 3), _separable(32, 64)),
        body=body,
        head=make_head(channels, num_classes),
    )


MODELS: dict[str, Callable[[int], nn.Module]] = {"mobilenet": mobilenet}
