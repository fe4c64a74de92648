"""ResNets of 18, 34, 50 and 101 layers with stochastic depth.

The probability that a block's residual survives falls linearly from 1 at the first
block to 0.5 at the last. One draw decides for the whole batch, and evaluation takes the
expectation. torchvision's `StochasticDepth` instead divides by the probability while
training. There is no ReLU behind the sum. The stem is a 3x3 convolution at full
resolution, without pooling. Stem and basic blocks have biases, bottlenecks none.

Huang et al., "Deep Networks with Stochastic Depth", 2016.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from trainact.lab.models.cifar.blocks import ConvNormAct, Residual, chain, make_head

WIDTHS = (64, 128, 256, 512)
LAST_SURVIVAL = 0.5

NumBlocks = tuple[int, int, int, int]


class StochasticBlock(Residual):
    """A residual block whose branch is dropped at random while training.

    Args:
        branch: what may be dropped.
        shortcut: what is always there; None for the identity.
        survival: probability that the branch is kept.
    """

    def __init__(
        self, branch: nn.Module, shortcut: nn.Module | None, survival: float
    ) -> None:
        super().__init__(branch, shortcut)
        self.survival = survival

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """Add the branch or its expectation, or nothing.

        Args:
            features_BCHW: what branch and shortcut see.

        Returns:
            The sum.
        """
        shortcut = self.shortcut(features_BCHW)
        if not self.training:
            return self.survival * self.branch(features_BCHW) + shortcut
        if not self._survives():
            return shortcut
        return self.branch(features_BCHW) + shortcut

    def _survives(self) -> bool:
        # Drawn on the CPU wherever the features are, so that no step waits for the
        # device. A dropped branch is not run at all: its running statistics stay, and
        # its parameters get no gradient.
        return bool(torch.bernoulli(torch.tensor(self.survival, device="cpu")))


def survival_probabilities(number: int) -> list[float]:
    """Space the survival probabilities evenly from 1 to LAST_SURVIVAL.

    Args:
        number: of blocks.

    Returns:
        One probability for each block.
    """
    return [1 - (1 - LAST_SURVIVAL) * index / (number - 1) for index in range(number)]


def _basic(in_channels: int, width: int, stride: int) -> list[nn.Module]:
    return [
        ConvNormAct(in_channels, width, 3, stride, bias=True),
        ConvNormAct(width, width, 3, bias=True, act=None),
    ]


def _bottleneck(in_channels: int, width: int, stride: int) -> list[nn.Module]:
    return [
        ConvNormAct(in_channels, width),
        ConvNormAct(width, width, 3, stride),
        ConvNormAct(width, 4 * width, act=None),
    ]


def _build(bottleneck: bool, num_blocks: NumBlocks, num_classes: int) -> nn.Module:
    make_convs, expansion = (_bottleneck, 4) if bottleneck else (_basic, 1)
    survivals = survival_probabilities(sum(num_blocks))
    blocks: list[nn.Module] = []
    channels = WIDTHS[0]
    for width, count in zip(WIDTHS, num_blocks, strict=True):
        for index in range(count):
            stride = 2 if index == 0 and width != WIDTHS[0] else 1
            branch = nn.Sequential(*make_convs(channels, width, stride))
            shortcut = _shortcut(channels, expansion * width, stride, not bottleneck)
            blocks.append(StochasticBlock(branch, shortcut, survivals[len(blocks)]))
            channels = expansion * width
    return chain(
        conv1=nn.Sequential(*ConvNormAct(3, WIDTHS[0], 3, bias=True)),
        blocks=nn.Sequential(*blocks),
        head=make_head(channels, num_classes),
    )


def _shortcut(
    in_channels: int, out_channels: int, stride: int, bias: bool
) -> nn.Module | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return ConvNormAct(in_channels, out_channels, stride=stride, bias=bias, act=None)


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "stochasticdepth18": partial(_build, False, (2, 2, 2, 2)),
    "stochasticdepth34": partial(_build, False, (3, 4, 6, 3)),
    "stochasticdepth50": partial(_build, True, (3, 4, 6, 3)),
    "stochasticdepth101": partial(_build, True, (3, 4, 23, 3)),
}
