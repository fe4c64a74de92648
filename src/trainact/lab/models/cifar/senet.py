"""SE-ResNets for 32x32 images.

Every convolution has a bias, and the branch ends in a ReLU before it is squeezed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from trainact.lab.models.cifar.blocks import (
    ConvNormAct,
    Residual,
    chain,
    make_head,
    relu,
)

WIDTHS = (64, 128, 256, 512)
REDUCTION = 16

NumBlocks = tuple[int, int, int, int]
_conv = partial(ConvNormAct, bias=True)


def _basic(in_channels: int, width: int, stride: int) -> list[nn.Module]:
    return [_conv(in_channels, width, 3, stride), _conv(width, width, 3)]


def _bottleneck(in_channels: int, width: int, stride: int) -> list[nn.Module]:
    return [
        _conv(in_channels, width),
        _conv(width, width, 3, stride),
        _conv(width, 4 * width),
    ]


def _block(
    convs: list[nn.Module], in_channels: int, out_channels: int, stride: int
) -> nn.Module:
    from torchvision.ops import SqueezeExcitation

    excite = SqueezeExcitation(out_channels, out_channels // REDUCTION)
    shortcut = None
    if stride != 1 or in_channels != out_channels:
        shortcut = _conv(in_channels, out_channels, stride=stride, act=None)
    return nn.Sequential(Residual(nn.Sequential(*convs, excite), shortcut), relu())


def _build(bottleneck: bool, num_blocks: NumBlocks, num_classes: int) -> nn.Module:
    make_convs, expansion = (_bottleneck, 4) if bottleneck else (_basic, 1)
    blocks: list[nn.Module] = []
    channels = WIDTHS[0]
    for width, count in zip(WIDTHS, num_blocks, strict=True):
        for index in range(count):
            stride = 2 if index == 0 and width != WIDTHS[0] else 1
            convs = make_convs(channels, width, stride)
            blocks.append(_block(convs, channels, expansion * width, stride))
            channels = expansion * width
    return chain(
        pre=nn.Sequential(*_conv(3, WIDTHS[0], 3)),
        blocks=nn.Sequential(*blocks),
        head=make_head(channels, num_classes),
    )


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "seresnet18": partial(_build, False, (2, 2, 2, 2)),
    "seresnet34": partial(_build, False, (3, 4, 6, 3)),
    "seresnet50": partial(_build, True, (3, 4, 6, 3)),
    "seresnet101": partial(_build, True, (3, 4, 23, 3)),
    "seresnet152": partial(_build, True, (3, 8, 36, 3)),
}
