"""Inception-v4 for 32x32 images: 4, 7 and 3 blocks on 30x30, 14x14 and 7x7 maps.

Szegedy et al., "Inception-v4, Inception-ResNet and the Impact of Residual Connections
on Learning", 2017, figures 4 to 9.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from trainact.lab.models.cifar.blocks import Concat, ConvNormAct, chain, make_head
from trainact.lab.models.cifar.inception_parts import (
    DROPOUT,
    build_reduction_a,
    build_stem,
    smooth,
)


def build_inception_v4(num_classes: int) -> nn.Module:
    """Build the network with torch's default initialisation.

    Args:
        num_classes: number of outputs.

    Returns:
        The network.
    """
    return chain(
        stem=build_stem(),
        blocks_a=nn.Sequential(*(_block_a() for _ in range(4))),
        reduction_a=build_reduction_a(widths=(192, 224, 256), wide=384),
        blocks_b=nn.Sequential(*(_block_b() for _ in range(7))),
        reduction_b=_reduction_b(),
        blocks_c=nn.Sequential(*(_block_c() for _ in range(3))),
        head=make_head(1536, num_classes, DROPOUT),
    )


def _block_a() -> nn.Module:
    return Concat(
        nn.Sequential(
            ConvNormAct(384, 64), ConvNormAct(64, 96, 3), ConvNormAct(96, 96, 3)
        ),
        nn.Sequential(ConvNormAct(384, 64), ConvNormAct(64, 96, 3)),
        ConvNormAct(384, 96),
        nn.Sequential(smooth(), ConvNormAct(384, 96)),
    )


def _block_b() -> nn.Module:
    return Concat(
        ConvNormAct(1024, 384),
        nn.Sequential(
            ConvNormAct(1024, 192),
            ConvNormAct(192, 224, (1, 7)),
            ConvNormAct(224, 256, (7, 1)),
        ),
        nn.Sequential(
            ConvNormAct(1024, 192),
            ConvNormAct(192, 192, (1, 7)),
            ConvNormAct(192, 224, (7, 1)),
            ConvNormAct(224, 224, (1, 7)),
            ConvNormAct(224, 256, (7, 1)),
        ),
        nn.Sequential(smooth(), ConvNormAct(1024, 128)),
    )


def _reduction_b() -> nn.Module:
    """From 14x14 to 7x7; padded, unlike the other reductions."""
    return Concat(
        nn.Sequential(ConvNormAct(1024, 192), ConvNormAct(192, 192, 3, stride=2)),
        nn.Sequential(
            ConvNormAct(1024, 256),
            ConvNormAct(256, 256, (1, 7)),
            ConvNormAct(256, 320, (7, 1)),
            ConvNormAct(320, 320, 3, stride=2),
        ),
        nn.MaxPool2d(3, stride=2, padding=1),
    )


def _block_c() -> nn.Module:
    return Concat(
        ConvNormAct(1536, 256),
        nn.Sequential(
            ConvNormAct(1536, 384),
            Concat(ConvNormAct(384, 256, (3, 1)), ConvNormAct(384, 256, (1, 3))),
        ),
        nn.Sequential(
            ConvNormAct(1536, 384),
            ConvNormAct(384, 448, (1, 3)),
            ConvNormAct(448, 512, (3, 1)),
            Concat(ConvNormAct(512, 256, (1, 3)), ConvNormAct(512, 256, (3, 1))),
        ),
        nn.Sequential(smooth(), ConvNormAct(1536, 256)),
    )


MODELS: dict[str, Callable[[int], nn.Module]] = {"inceptionv4": build_inception_v4}
