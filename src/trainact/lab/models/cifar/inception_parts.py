"""Parts that Inception-v3, Inception-v4 and Inception-ResNet-v2 share.

The stem and the first reduction are those of the latter two. For 32x32 images every
convolution of the stem has stride 1 and all but the first are padded: the maps are
30x30.

Szegedy et al., "Inception-v4, Inception-ResNet and the Impact of Residual Connections
on Learning", 2017, figures 3 and 7.
"""

from __future__ import annotations

from torch import nn

from trainact.lab.models.cifar.blocks import Concat, ConvNormAct, chain

STEM_CHANNELS = 384
DROPOUT = 0.2


def build_stem() -> nn.Module:
    """Build the stem.

    Returns:
        A module from images [B, 3, 32, 32] to maps [B, STEM_CHANNELS, 30, 30].
    """
    conv1 = nn.Sequential(
        ConvNormAct(3, 32, 3, padding=0), ConvNormAct(32, 32, 3), ConvNormAct(32, 64, 3)
    )
    pool_or_conv = Concat(ConvNormAct(64, 96, 3), nn.MaxPool2d(3, stride=1, padding=1))
    long_or_short = Concat(
        nn.Sequential(
            ConvNormAct(160, 64),
            ConvNormAct(64, 64, (7, 1)),
            ConvNormAct(64, 64, (1, 7)),
            ConvNormAct(64, 96, 3),
        ),
        nn.Sequential(ConvNormAct(160, 64), ConvNormAct(64, 96, 3)),
    )
    pool_and_conv = Concat(
        nn.MaxPool2d(3, stride=1, padding=1), ConvNormAct(192, 192, 3)
    )
    return chain(
        conv1=conv1,
        mixed1=pool_or_conv,
        mixed2=long_or_short,
        mixed3=pool_and_conv,
    )


def build_reduction_a(widths: tuple[int, int, int], wide: int) -> nn.Module:
    """Build the reduction from 30x30 to 14x14.

    Args:
        widths: of the three convolutions of the longer branch (k, l and m in the
            paper).
        wide: width of the branch with one convolution (n in the paper).

    Returns:
        A module from STEM_CHANNELS channels to STEM_CHANNELS + widths[2] + wide.
    """
    first, second, third = widths
    return Concat(
        nn.Sequential(
            ConvNormAct(STEM_CHANNELS, first),
            ConvNormAct(first, second, 3),
            ConvNormAct(second, third, 3, stride=2, padding=0),
        ),
        ConvNormAct(STEM_CHANNELS, wide, 3, stride=2, padding=0),
        nn.MaxPool2d(3, stride=2),
    )


def smooth() -> nn.Module:
    """Build the 3x3 average of a pooling branch, which keeps the size."""
    return nn.AvgPool2d(3, stride=1, padding=1)
