"""ShuffleNet for 32x32 images: Zhang et al., 2017, in three groups."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from trainact.lab.models.cifar.blocks import (
    Concat,
    ConvNormAct,
    Residual,
    chain,
    make_head,
    relu,
)

_GROUPS = 3
# (channels, units) of each stage
_STAGES = ((240, 4), (480, 8), (960, 4))


def _branch(
    in_channels: int, out_channels: int, inner: int, stride: int
) -> nn.Sequential:
    return chain(
        squeeze=ConvNormAct(in_channels, inner, groups=_GROUPS, bias=True),
        shuffle=nn.ChannelShuffle(_GROUPS),
        depthwise=ConvNormAct(
            inner, inner, 3, stride, groups=inner, bias=True, act=None
        ),
        expand=ConvNormAct(inner, out_channels, groups=_GROUPS, bias=True, act=None),
    )


def _unit(channels: int) -> nn.Sequential:
    branch = _branch(channels, channels, channels // 4, stride=1)
    return nn.Sequential(Residual(branch), relu())


def _halving_unit(in_channels: int, out_channels: int) -> nn.Sequential:
    added = out_channels - in_channels
    branch = _branch(in_channels, added, out_channels // 4, stride=2)
    return nn.Sequential(Concat(nn.AvgPool2d(3, 2, padding=1), branch), relu())


def shufflenet(num_classes: int) -> nn.Module:
    """Build ShuffleNet.

    Unlike the ImageNet network: the stem has stride 1 and no pooling behind it, the
    first pointwise convolution is grouped in stage 2 as well, every convolution has a
    bias.

    Args:
        num_classes: number of outputs.

    Returns:
        The network.
    """
    channels = 24
    units = nn.Sequential()
    for out_channels, num_units in _STAGES:
        units.append(_halving_unit(channels, out_channels))
        units.extend(_unit(out_channels) for _ in range(num_units - 1))
        channels = out_channels
    return chain(
        conv1=ConvNormAct(3, 24, 3, bias=True),
        units=units,
        head=make_head(channels, num_classes),
    )


MODELS: dict[str, Callable[[int], nn.Module]] = {"shufflenet": shufflenet}
