"""Inception-ResNet-v2 for 32x32 images: 5, 10 and 5 blocks on 30x30, 14x14 and 6x6.

Every block has a 1x1 convolution on its shortcut and a batch norm behind the sum.

Szegedy et al., "Inception-v4, Inception-ResNet and the Impact of Residual Connections
on Learning", 2017, figures 16 to 19.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from trainact.lab.models.cifar.blocks import (
    Concat,
    ConvNormAct,
    chain,
    make_head,
    relu,
)
from trainact.lab.models.cifar.inception_parts import (
    DROPOUT,
    STEM_CHANNELS,
    build_reduction_a,
    build_stem,
)

REDUCED_A_CHANNELS = STEM_CHANNELS + 384 + 384
# 1154 is the paper's width (figure 17).
B_CHANNELS = 1154
REDUCED_B_CHANNELS = B_CHANNELS + 384 + 288 + 320
C_CHANNELS = 2048
_Make = Callable[[int], nn.Module]


class ResidualBlock(nn.Module):
    """ReLU of the batch norm of a projected input plus scaled, projected branches.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        branches: what the residual is projected from.
        branch_channels: channels of ``branches``.
        scale: of the residual.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        branches: nn.Module,
        branch_channels: int,
        scale: float,
    ) -> None:
        super().__init__()
        self.branches = branches
        self.project = nn.Conv2d(branch_channels, out_channels, 1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)
        self.norm = nn.BatchNorm2d(out_channels)
        self.act = relu()
        self.scale = scale

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """Transform feature maps.

        Args:
            features_BCHW: feature maps.

        Returns:
            Feature maps of the same size.
        """
        residual = self.scale * self.project(self.branches(features_BCHW))
        return self.act(self.norm(residual + self.shortcut(features_BCHW)))


def build_inception_resnet_v2(num_classes: int) -> nn.Module:
    """Build the network with torch's default initialisation.

    Args:
        num_classes: number of outputs.

    Returns:
        The network.
    """
    return chain(
        stem=build_stem(),
        blocks_a=_stack(5, _block_a, STEM_CHANNELS, STEM_CHANNELS),
        reduction_a=build_reduction_a(widths=(256, 256, 384), wide=384),
        blocks_b=_stack(10, _block_b, REDUCED_A_CHANNELS, B_CHANNELS),
        reduction_b=_reduction_b(),
        blocks_c=_stack(5, _block_c, REDUCED_B_CHANNELS, C_CHANNELS),
        head=make_head(C_CHANNELS, num_classes, DROPOUT),
    )


def _stack(number: int, make: _Make, first: int, others: int) -> nn.Module:
    """Blocks of which the first has other input channels than the rest."""
    return nn.Sequential(make(first), *(make(others) for _ in range(number - 1)))


def _block_a(channels: int) -> nn.Module:
    branches = Concat(
        ConvNormAct(channels, 32),
        nn.Sequential(ConvNormAct(channels, 32), ConvNormAct(32, 32, 3)),
        nn.Sequential(
            ConvNormAct(channels, 32), ConvNormAct(32, 48, 3), ConvNormAct(48, 64, 3)
        ),
    )
    return ResidualBlock(channels, STEM_CHANNELS, branches, 128, scale=1.0)


def _block_b(channels: int) -> nn.Module:
    branches = Concat(
        ConvNormAct(channels, 192),
        nn.Sequential(
            ConvNormAct(channels, 128),
            ConvNormAct(128, 160, (1, 7)),
            ConvNormAct(160, 192, (7, 1)),
        ),
    )
    return ResidualBlock(channels, B_CHANNELS, branches, 384, scale=0.1)


def _reduction_b() -> nn.Module:
    """From 14x14 to 6x6."""
    return Concat(
        _narrow_and_halve(384),
        _narrow_and_halve(288),
        nn.Sequential(
            ConvNormAct(B_CHANNELS, 256),
            ConvNormAct(256, 288, 3),
            ConvNormAct(288, 320, 3, stride=2, padding=0),
        ),
        nn.MaxPool2d(3, stride=2),
    )


def _narrow_and_halve(out_channels: int) -> nn.Module:
    return nn.Sequential(
        ConvNormAct(B_CHANNELS, 256),
        ConvNormAct(256, out_channels, 3, stride=2, padding=0),
    )


def _block_c(channels: int) -> nn.Module:
    branches = Concat(
        ConvNormAct(channels, 192),
        nn.Sequential(
            ConvNormAct(channels, 192),
            ConvNormAct(192, 224, (1, 3)),
            ConvNormAct(224, 256, (3, 1)),
        ),
    )
    return ResidualBlock(channels, C_CHANNELS, branches, 448, scale=0.1)


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "inceptionresnetv2": build_inception_resnet_v2
}
