"""Inception-v3 for 32x32 images.

All convolutions in front of the first Inception block have stride 1 and nothing pools
there; maps are 30x30, 14x14 and 6x6. There is no auxiliary classifier.

Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2016.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from trainact.lab.models.cifar.blocks import Concat, ConvNormAct, chain, make_head
from trainact.lab.models.cifar.inception_parts import smooth

DROPOUT = 0.5


def build_inception_v3(num_classes: int) -> nn.Module:
    """Build the network with torch's default initialisation.

    Args:
        num_classes: number of outputs.

    Returns:
        The network.
    """
    return chain(
        Conv2d_1a_3x3=ConvNormAct(3, 32, 3),
        Conv2d_2a_3x3=ConvNormAct(32, 32, 3),
        Conv2d_2b_3x3=ConvNormAct(32, 64, 3),
        Conv2d_3b_1x1=ConvNormAct(64, 80),
        Conv2d_4a_3x3=ConvNormAct(80, 192, 3, padding=0),
        Mixed_5b=_mixed_5(192, pooled=32),
        Mixed_5c=_mixed_5(256, pooled=64),
        Mixed_5d=_mixed_5(288, pooled=64),
        Mixed_6a=_reduce_6(288),
        Mixed_6b=_mixed_6(768, width=128),
        Mixed_6c=_mixed_6(768, width=160),
        Mixed_6d=_mixed_6(768, width=160),
        Mixed_6e=_mixed_6(768, width=192),
        Mixed_7a=_reduce_7(768),
        Mixed_7b=_mixed_7(1280),
        Mixed_7c=_mixed_7(2048),
        head=make_head(2048, num_classes, DROPOUT),
    )


def _mixed_5(channels: int, pooled: int) -> nn.Module:
    """Branches of 1x1, 5x5, two 3x3, and one 3x3 behind a pooling (1x1 elsewhere)."""
    return Concat(
        ConvNormAct(channels, 64),
        nn.Sequential(ConvNormAct(channels, 48), ConvNormAct(48, 64, 5)),
        nn.Sequential(
            ConvNormAct(channels, 64), ConvNormAct(64, 96, 3), ConvNormAct(96, 96, 3)
        ),
        nn.Sequential(smooth(), ConvNormAct(channels, pooled, 3)),
    )


def _reduce_6(channels: int) -> nn.Module:
    """From 30x30 to 14x14."""
    return Concat(
        ConvNormAct(channels, 384, 3, stride=2, padding=0),
        nn.Sequential(
            ConvNormAct(channels, 64),
            ConvNormAct(64, 96, 3),
            ConvNormAct(96, 96, 3, stride=2, padding=0),
        ),
        nn.MaxPool2d(3, stride=2),
    )


def _mixed_6(channels: int, width: int) -> nn.Module:
    """Branches of 1x1, one and two pairs of 7x1 and 1x7, and a pooling."""
    return Concat(
        ConvNormAct(channels, 192),
        nn.Sequential(
            ConvNormAct(channels, width),
            ConvNormAct(width, width, (7, 1)),
            ConvNormAct(width, 192, (1, 7)),
        ),
        nn.Sequential(
            ConvNormAct(channels, width),
            ConvNormAct(width, width, (7, 1)),
            ConvNormAct(width, width, (1, 7)),
            ConvNormAct(width, width, (7, 1)),
            ConvNormAct(width, 192, (1, 7)),
        ),
        nn.Sequential(smooth(), ConvNormAct(channels, 192)),
    )


def _reduce_7(channels: int) -> nn.Module:
    """From 14x14 to 6x6, with an average where the others take the maximum."""
    return Concat(
        nn.Sequential(
            ConvNormAct(channels, 192), ConvNormAct(192, 320, 3, stride=2, padding=0)
        ),
        nn.Sequential(
            ConvNormAct(channels, 192),
            ConvNormAct(192, 192, (1, 7)),
            ConvNormAct(192, 192, (7, 1)),
            ConvNormAct(192, 192, 3, stride=2, padding=0),
        ),
        nn.AvgPool2d(3, stride=2),
    )


def _mixed_7(channels: int) -> nn.Module:
    """Branches that end in a 1x3 and a 3x1 side by side."""
    return Concat(
        ConvNormAct(channels, 320),
        nn.Sequential(ConvNormAct(channels, 384), _fork(384)),
        nn.Sequential(ConvNormAct(channels, 448), ConvNormAct(448, 384, 3), _fork(384)),
        nn.Sequential(smooth(), ConvNormAct(channels, 192)),
    )


def _fork(channels: int) -> nn.Module:
    return Concat(
        ConvNormAct(channels, channels, (1, 3)), ConvNormAct(channels, channels, (3, 1))
    )


MODELS: dict[str, Callable[[int], nn.Module]] = {"inceptionv3": build_inception_v3}
