"""GoogLeNet for 32x32 images: Szegedy et al., 2014, with batch norm."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from trainact.lab.models.cifar.blocks import (
    Concat,
    ConvNormAct,
    chain,
    make_head,
    relu,
)


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2, padding=1)


def _damped(in_channels: int, out_channels: int) -> nn.Sequential:
    # The reference network gives batch norm the width as eps too: this one divides by
    # sqrt(var + out_channels).
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        nn.BatchNorm2d(out_channels, eps=out_channels),
        relu(),
    )


def _inception(
    in_channels: int,
    single: int,
    three: tuple[int, int],
    five: tuple[int, int],
    pooled: int,
) -> nn.Module:
    """Four branches; the two pairs are the widths before and after a reduction."""
    return Concat(
        ConvNormAct(in_channels, single, bias=True),
        nn.Sequential(
            ConvNormAct(in_channels, three[0], bias=True),
            ConvNormAct(three[0], three[1], 3, bias=True),
        ),
        nn.Sequential(
            ConvNormAct(in_channels, five[0], bias=True),
            _damped(five[0], five[1]),
            ConvNormAct(five[1], five[1], 3, bias=True),
        ),
        nn.Sequential(
            nn.MaxPool2d(3, 1, padding=1),
            ConvNormAct(in_channels, pooled, bias=True),
        ),
    )


def googlenet(num_classes: int) -> nn.Module:
    """Build GoogLeNet.

    Unlike the ImageNet network: the stem is three 3x3 convolutions at stride 1, two
    3x3 convolutions stand for a 5x5, batch norm is everywhere, and there are no
    auxiliary heads.

    Args:
        num_classes: number of outputs.

    Returns:
        The network.
    """
    return chain(
        prelayer=nn.Sequential(
            *ConvNormAct(3, 64, 3), *ConvNormAct(64, 64, 3), *ConvNormAct(64, 192, 3)
        ),
        pool2=_pool(),
        a3=_inception(192, 64, (96, 128), (16, 32), 32),
        b3=_inception(256, 128, (128, 192), (32, 96), 64),
        pool3=_pool(),
        a4=_inception(480, 192, (96, 208), (16, 48), 64),
        b4=_inception(512, 160, (112, 224), (24, 64), 64),
        c4=_inception(512, 128, (128, 256), (24, 64), 64),
        d4=_inception(512, 112, (144, 288), (32, 64), 64),
        e4=_inception(528, 256, (160, 320), (32, 128), 128),
        pool4=_pool(),
        a5=_inception(832, 256, (160, 320), (32, 128), 128),
        b5=_inception(832, 384, (192, 384), (48, 128), 128),
        head=make_head(1024, num_classes, dropout=0.4),
    )


MODELS: dict[str, Callable[[int], nn.Module]] = {"googlenet": googlenet}
