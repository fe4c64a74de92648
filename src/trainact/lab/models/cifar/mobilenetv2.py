"""MobileNetV2 for 32x32 images: Sandler et al., 2018."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from trainact.lab.models.cifar.blocks import ConvNormAct, Residual, chain

# (channels, blocks, stride of the first, expansion) of each stage
_STAGES = (
    (16, 1, 1, 1),
    (24, 2, 2, 6),
    (32, 3, 2, 6),
    (64, 4, 2, 6),
    (96, 3, 1, 6),
    (160, 3, 1, 6),
    (320, 1, 1, 6),
)
_relu6 = partial(nn.ReLU6, inplace=True)


def _bottleneck(
    in_channels: int, out_channels: int, stride: int, expansion: int
) -> nn.Module:
    inner = in_channels * expansion
    block = chain(
        expand=ConvNormAct(in_channels, inner, bias=True, act=_relu6),
        depthwise=ConvNormAct(
            inner, inner, 3, stride, groups=inner, bias=True, act=_relu6
        ),
        project=ConvNormAct(inner, out_channels, bias=True, act=None),
    )
    if stride == 1 and in_channels == out_channels:
        return Residual(block)
    return block


def mobilenetv2(num_classes: int) -> nn.Module:
    """Build MobileNetV2 at full width.

    Unlike the ImageNet network: the stem is a 1x1 convolution at stride 1 with one
    pixel of padding, so that its output is 34x34 with a border that sees zeros only;
    the first block expands too (by 1), stage strides are 1, 2, 2, 2, 1, 1, 1, every
    convolution has a bias, and there is no dropout.

    Args:
        num_classes: number of outputs.

    Returns:
        The network.
    """
    channels = 32
    blocks = nn.Sequential()
    for out_channels, num_blocks, first_stride, expansion in _STAGES:
        for stride in (first_stride, *[1] * (num_blocks - 1)):
            blocks.append(_bottleneck(channels, out_channels, stride, expansion))
            channels = out_channels
    return chain(
        pre=nn.Sequential(*ConvNormAct(3, 32, 1, padding=1, bias=True, act=_relu6)),
        blocks=blocks,
        last=ConvNormAct(channels, 1280, bias=True, act=_relu6),
        pool=nn.AdaptiveAvgPool2d(1),
        head=nn.Conv2d(1280, num_classes, 1),
        flatten=nn.Flatten(),
    )


MODELS: dict[str, Callable[[int], nn.Module]] = {"mobilenetv2": mobilenetv2}
