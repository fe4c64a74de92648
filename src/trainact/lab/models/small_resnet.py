"""A small ResNet: the CIFAR network of He et al. (CVPR 2016, section 4.2) with n = 1.

For images from 8x8 to 64x64; the second and the third block halve the size.
"""

from __future__ import annotations

from torch import Tensor, nn

from trainact.lab.models.cifar.blocks import ConvNormAct

WIDTHS = (16, 32, 64)


class SmallResNet(nn.Module):
    """A 3x3 convolution, a residual block each of 16, 32 and 64 channels, a classifier.

    Blocks are torchvision's: where the width grows the skip is a 1x1 convolution, where
    the paper pads with zeros.

    Args:
        channels: channels of the images.
        num_classes: number of outputs.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        first, *_, last = WIDTHS
        self.conv1 = nn.Conv2d(channels, first, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(first)
        self.blocks = _blocks()
        self.head = nn.Linear(last, num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Classify images.

        Args:
            images_BCHW: normalised images, at least 4x4.

        Returns:
            Logits [B, num_classes].
        """
        features = self.blocks(self.norm1(self.conv1(images_BCHW)).relu())
        return self.head(features.mean((2, 3)))


def _blocks() -> nn.Sequential:
    from torchvision.models.resnet import BasicBlock

    first, second, third = WIDTHS
    return nn.Sequential(
        BasicBlock(first, first),
        BasicBlock(first, second, 2, ConvNormAct(first, second, stride=2, act=None)),
        BasicBlock(second, third, 2, ConvNormAct(second, third, stride=2, act=None)),
    )


def build(image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Build the network with torch's default initialisation.

    Args:
        image_shape: channels, height and width.
        num_classes: number of outputs.

    Returns:
        The network.
    """
    return SmallResNet(image_shape[0], num_classes)
