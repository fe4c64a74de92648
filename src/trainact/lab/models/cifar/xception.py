"""Xception for 32x32 images: Chollet, 2016."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from trainact.lab.models.cifar.blocks import (
    ConvNormAct,
    Residual,
    chain,
    make_head,
    relu,
)

_WIDTH = 728


def _separable(in_channels: int, out_channels: int) -> nn.Sequential:
    return chain(
        depthwise=nn.Conv2d(
            in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False
        ),
        pointwise=nn.Conv2d(in_channels, out_channels, 1, bias=False),
        norm=nn.BatchNorm2d(out_channels),
    )


def _entry(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    branch = nn.Sequential(
        _separable(in_channels, out_channels),
        relu(),
        _separable(out_channels, out_channels),
        nn.MaxPool2d(3, stride, padding=1),
    )
    shortcut = ConvNormAct(in_channels, out_channels, 1, stride, bias=True, act=None)
    return Residual(branch, shortcut)


def _middle() -> nn.Module:
    branch = nn.Sequential(
        _separable(_WIDTH, _WIDTH),
        relu(),
        _separable(_WIDTH, _WIDTH),
        relu(),
        _separable(_WIDTH, _WIDTH),
    )
    return Residual(branch)


def _exit() -> nn.Module:
    branch = nn.Sequential(
        nn.ReLU(),
        _separable(_WIDTH, _WIDTH),
        relu(),
        _separable(_WIDTH, 1024),
        nn.MaxPool2d(3, 2, padding=1),
    )
    return Residual(branch, ConvNormAct(_WIDTH, 1024, 1, 2, bias=True, act=None))


def xception(num_classes: int) -> nn.Module:
    """Build Xception.

    Unlike the ImageNet network: the stem's convolutions have padding and stride 1, and
    the third block of the entry flow keeps the size. In the reference network the ReLU
    at the head of a branch overwrites what the shortcut sees, up to the exit flow,
    whose shortcut sees the sum itself: here those ReLUs stand in front of the blocks.

    Args:
        num_classes: number of outputs.

    Returns:
        The network.
    """
    entry = chain(
        conv1=nn.Sequential(*ConvNormAct(3, 32, 3)),
        conv2=ConvNormAct(32, 64, 3),
        blocks=nn.Sequential(
            _entry(64, 128, stride=2),
            relu(),
            _entry(128, 256, stride=2),
            relu(),
            _entry(256, _WIDTH, stride=1),
        ),
    )
    middle = nn.Sequential()
    for _ in range(8):
        middle.extend([relu(), _middle()])
    return chain(
        entry_flow=entry,
        middle_flow=middle,
        exit_flow=nn.Sequential(
            _exit(),
            _separable(1024, 1536),
            relu(),
            _separable(1536, 2048),
            relu(),
        ),
        head=make_head(2048, num_classes),
    )


MODELS: dict[str, Callable[[int], nn.Module]] = {"xception": xception}
