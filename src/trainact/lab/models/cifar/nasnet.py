"""NASNet-A for 32x32 images: three groups of four normal cells, two reduction cells.

Every cell sees the outputs of the two cells in front of it. The third sum of a normal
cell adds the pooled input to the input itself, where the paper adds it to the input
before that. There is no auxiliary classifier and no drop path.

Zoph et al., "Learning Transferable Architectures for Scalable Image Recognition", 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from trainact.lab.models.cifar.blocks import Concat, make_head

CHANNELS = 44
NUM_GROUPS = 3
NORMAL_CELLS = 4
NORMAL_OUTPUTS = 6
REDUCTION_OUTPUTS = 4

Way = Literal["keep", "project", "halve"]


class Separable(nn.Sequential):
    """Twice ReLU, depthwise and pointwise convolution and batch norm.

    Args:
        channels: of input and output.
        kernel_size: of the depthwise convolutions.
        stride: of the first depthwise convolution.
        first_bias: whether the first depthwise convolution has a bias; all the other
            convolutions have one.
    """

    def __init__(
        self, channels: int, kernel_size: int, stride: int = 1, first_bias: bool = False
    ) -> None:
        super().__init__(
            *_separable(channels, kernel_size, stride, first_bias),
            *_separable(channels, kernel_size, stride=1, bias=True),
        )


class Fit(nn.Module):
    """Bring the output of the cell before the last to the cell's size and channels.

    Args:
        in_channels: channels of that output.
        channels: channels of the cell.
        way: ``"halve"`` where the size differs, ``"project"`` where only the channels
            do, ``"keep"`` where neither does.
    """

    def __init__(self, in_channels: int, channels: int, way: Way) -> None:
        super().__init__()
        ways: dict[Way, nn.Module] = {
            "keep": nn.Identity(),
            "project": nn.Sequential(*_project(in_channels, channels, bias=True)),
            "halve": _halve(in_channels, channels),
        }
        self.fit = ways.pop(way)
        # The network of the paper's experiments registers the other ways too. They get
        # no gradient and never change; they are here for the parameter count.
        self.unused = nn.ModuleList(ways.values())

    def forward(self, previous_BCHW: Tensor) -> Tensor:
        """Fit feature maps.

        Args:
            previous_BCHW: output of the cell before the last.

        Returns:
            Feature maps as the cell needs them.
        """
        return self.fit(previous_BCHW)


class NormalCell(nn.Module):
    """A cell that keeps the size.

    Args:
        in_channels: channels of the last cell's output.
        previous_channels: channels of the output of the cell before.
        channels: of each of the six outputs.
        way: as for `Fit`.
    """

    def __init__(
        self, in_channels: int, previous_channels: int, channels: int, way: Way
    ) -> None:
        super().__init__()
        self.fit = Fit(previous_channels, channels, way)
        self.project = nn.Sequential(*_project(in_channels, channels, bias=False))
        self.input3 = Separable(channels, 3)
        self.input5 = Separable(channels, 5)
        self.previous3 = Separable(channels, 3)
        self.other_previous3 = Separable(channels, 3)
        self.previous5 = Separable(channels, 5)
        self.pool = nn.AvgPool2d(3, stride=1, padding=1)

    def forward(self, features_BCHW: Tensor, previous_BCHW: Tensor) -> Tensor:
        """Combine two feature maps.

        Args:
            features_BCHW: output of the last cell.
            previous_BCHW: output of the cell before.

        Returns:
            Feature maps of NORMAL_OUTPUTS * channels channels.
        """
        previous = self.fit(previous_BCHW)
        features = self.project(features_BCHW)
        outputs = [
            previous,
            self.input3(features) + features,
            self.previous3(previous) + self.input5(features),
            self.pool(features) + features,
            2 * self.pool(previous),
            self.previous5(previous) + self.other_previous3(previous),
        ]
        return torch.cat(outputs, 1)


class ReductionCell(nn.Module):
    """A cell that halves the size.

    Args:
        in_channels: channels of the last cell's output.
        previous_channels: channels of the output of the cell before.
        channels: of each of the four outputs.
    """

    def __init__(self, in_channels: int, previous_channels: int, channels: int) -> None:
        super().__init__()
        self.fit = Fit(previous_channels, channels, "project")
        self.project = nn.Sequential(*_project(in_channels, channels, bias=True))
        self.input5 = Separable(channels, 5, stride=2, first_bias=True)
        self.previous5 = Separable(channels, 5, stride=2, first_bias=True)
        self.previous7 = Separable(channels, 7, stride=2, first_bias=True)
        self.other_previous7 = Separable(channels, 7, stride=2, first_bias=True)
        self.inner3 = Separable(channels, 3, first_bias=True)
        self.maximum = nn.MaxPool2d(3, stride=2, padding=1)
        self.average = nn.AvgPool2d(3, stride=2, padding=1)
        self.inner_average = nn.AvgPool2d(3, stride=1, padding=1)

    def forward(self, features_BCHW: Tensor, previous_BCHW: Tensor) -> Tensor:
        """Combine two feature maps.

        Args:
            features_BCHW: output of the last cell.
            previous_BCHW: output of the cell before.

        Returns:
            Feature maps of half the size and REDUCTION_OUTPUTS * channels channels.
        """
        previous = self.fit(previous_BCHW)
        features = self.project(features_BCHW)
        maximum = self.maximum(features)
        inner = self.previous7(previous) + self.input5(features)
        second = maximum + self.other_previous7(previous)
        outputs = [
            second,
            self.average(features) + self.previous5(previous),
            maximum + self.inner3(inner),
            self.inner_average(inner) + second,
        ]
        return torch.cat(outputs, 1)


class NASNet(nn.Module):
    """The stem, the cells and a classifier.

    Args:
        num_classes: number of outputs.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, CHANNELS, 3, padding=1, bias=False), nn.BatchNorm2d(CHANNELS)
        )
        self.cells = nn.ModuleList(_cells())
        channels = NORMAL_OUTPUTS * CHANNELS * 2 ** (NUM_GROUPS - 1)
        self.head = nn.Sequential(nn.ReLU(), make_head(channels, num_classes))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Classify images.

        Args:
            images_BCHW: normalised images of 32x32.

        Returns:
            Logits [B, num_classes].
        """
        features = self.stem(images_BCHW)
        previous = features
        for cell in self.cells:
            features, previous = cell(features, previous), features
        return self.head(features)


def _cells() -> Iterator[nn.Module]:
    """The cells of all groups, each but the last group with a reduction behind it."""
    previous, last = CHANNELS, CHANNELS
    for group in range(NUM_GROUPS):
        channels = CHANNELS * 2**group
        if group > 0:
            yield ReductionCell(last, previous, channels)
            previous, last = last, REDUCTION_OUTPUTS * channels
        for index in range(NORMAL_CELLS):
            is_behind_reduction = group > 0 and index == 0
            same_size: Way = "keep" if previous == channels else "project"
            way: Way = "halve" if is_behind_reduction else same_size
            yield NormalCell(last, previous, channels, way)
            previous, last = last, NORMAL_OUTPUTS * channels


def _separable(
    channels: int, kernel_size: int, stride: int, bias: bool
) -> list[nn.Module]:
    return [
        nn.ReLU(),
        nn.Conv2d(
            channels,
            channels,
            kernel_size,
            stride,
            kernel_size // 2,
            groups=channels,
            bias=bias,
        ),
        nn.Conv2d(channels, channels, 1),
        nn.BatchNorm2d(channels),
    ]


def _project(in_channels: int, channels: int, bias: bool) -> list[nn.Module]:
    return [
        nn.ReLU(),
        nn.Conv2d(in_channels, channels, 1, bias=bias),
        nn.BatchNorm2d(channels),
    ]


def _halve(in_channels: int, channels: int) -> nn.Module:
    """Half the channels from the even pixels, half from the odd ones."""
    even = nn.Conv2d(in_channels, channels // 2, 1, stride=2)
    odd = nn.Conv2d(in_channels, channels // 2, 1, stride=2)
    drop_first = nn.ZeroPad2d((-1, 0, -1, 0))
    return nn.Sequential(
        nn.ReLU(),
        Concat(even, nn.Sequential(drop_first, odd)),
        nn.BatchNorm2d(channels),
    )


MODELS: dict[str, Callable[[int], nn.Module]] = {"nasnet": NASNet}
