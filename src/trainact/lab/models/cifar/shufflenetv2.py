"""ShuffleNetV2 for 32x32 images: Ma et al., 2018, at width 1."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from trainact.lab.models.cifar.blocks import Concat, ConvNormAct, chain, make_head

# (channels, units) of each stage
_STAGES = ((116, 4), (232, 8), (464, 4))


def _separable(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return chain(
        depthwise=ConvNormAct(
            in_channels, in_channels, 3, stride, groups=in_channels, bias=True, act=None
        ),
        pointwise=ConvNormAct(in_channels, out_channels, bias=True),
    )


def _branch(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        ConvNormAct(in_channels, in_channels, bias=True),
        _separable(in_channels, out_channels, stride),
    )


class Unit(nn.Module):
    """Half of the channels through a branch, the other half as they are.

    Args:
        channels: of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = _branch(channels // 2, channels // 2, stride=1)

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """Transform the second half.

        Args:
            features_BCHW: what comes in.

        Returns:
            Both halves, not yet shuffled.
        """
        kept, changed = features_BCHW.chunk(2, 1)
        return torch.cat([kept, self.branch(changed)], 1)


def _halving_unit(in_channels: int, out_channels: int) -> nn.Module:
    half = out_channels // 2
    return Concat(
        _separable(in_channels, half, stride=2), _branch(in_channels, half, stride=2)
    )


def shufflenetv2(num_classes: int) -> nn.Module:
    """Build ShuffleNetV2.

    Unlike the ImageNet network: the stem has stride 1 and neither ReLU nor pooling
    behind it, the branch of a halving unit is as wide inside as its input, every
    convolution has a bias.

    Args:
        num_classes: number of outputs.

    Returns:
        The network.
    """
    channels = 24
    units = nn.Sequential()
    for out_channels, num_units in _STAGES:
        units.extend([_halving_unit(channels, out_channels), nn.ChannelShuffle(2)])
        for _ in range(num_units - 1):
            units.extend([Unit(out_channels), nn.ChannelShuffle(2)])
        channels = out_channels
    return chain(
        pre=nn.Sequential(*ConvNormAct(3, 24, 3, bias=True, act=None)),
        units=units,
        last=ConvNormAct(channels, 1024, bias=True),
        head=make_head(1024, num_classes),
    )


MODELS: dict[str, Callable[[int], nn.Module]] = {"shufflenetv2": shufflenetv2}
