"""Wide ResNet of depth 40 and width factor 10, with dropout 0.5 (0.3 in its paper).

The convolutions have biases, the stem included, and a projection on a shortcut sees
the raw input of its block, in front of batch norm and ReLU.

Zagoruyko and Komodakis, "Wide Residual Networks", 2016.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from trainact.lab.models.cifar.blocks import Residual, chain, make_head, relu

STEM_CHANNELS = 16
WIDTHS = (160, 320, 640)
BLOCKS_PER_STAGE = 6
DROPOUT = 0.5


def build_wideresnet(num_classes: int) -> nn.Module:
    """Build the network with torch's default initialisation.

    Args:
        num_classes: number of outputs.

    Returns:
        The network.
    """
    narrow, middle, wide = WIDTHS
    return chain(
        init_conv=nn.Conv2d(3, STEM_CHANNELS, 3, padding=1),
        stage1=_stage(STEM_CHANNELS, narrow, stride=1),
        stage2=_stage(narrow, middle, stride=2),
        stage3=_stage(middle, wide, stride=2),
        norm=nn.BatchNorm2d(wide),
        act=relu(),
        head=make_head(wide, num_classes),
    )


def _stage(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    others = (_block(out_channels, out_channels) for _ in range(BLOCKS_PER_STAGE - 1))
    return nn.Sequential(_block(in_channels, out_channels, stride), *others)


def _block(in_channels: int, out_channels: int, stride: int = 1) -> nn.Module:
    branch = nn.Sequential(
        nn.BatchNorm2d(in_channels),
        relu(),
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1),
        nn.BatchNorm2d(out_channels),
        relu(),
        nn.Dropout(DROPOUT),
        nn.Conv2d(out_channels, out_channels, 3, padding=1),
    )
    shortcut = None
    if stride != 1 or in_channels != out_channels:
        shortcut = nn.Conv2d(in_channels, out_channels, 1, stride)
    return Residual(branch, shortcut)


MODELS: dict[str, Callable[[int], nn.Module]] = {"wideresnet": build_wideresnet}
