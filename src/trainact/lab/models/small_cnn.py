"""A small CNN: three 3x3 layers with batch norm, then global average pooling.

For images from 8x8 to 64x64; the first two layers are each followed by a pooling that
halves the size.
"""

from __future__ import annotations

from torch import Tensor, nn

WIDTHS = (32, 64, 128)


class SmallCNN(nn.Module):
    """Convolutions of 32, 64 and 128 channels and a linear classifier.

    Args:
        channels: channels of the images.
        num_classes: number of outputs.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.conv1 = nn.Conv2d(channels, first, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(second)
        self.conv3 = nn.Conv2d(second, third, 3, padding=1)
        self.norm3 = nn.BatchNorm2d(third)
        self.halve = nn.MaxPool2d(2)
        self.head = nn.Linear(third, num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Classify images.

        Args:
            images_BCHW: normalised images, at least 4x4.

        Returns:
            Logits [B, num_classes].
        """
        features = self.halve(self.norm1(self.conv1(images_BCHW)).relu())
        features = self.halve(self.norm2(self.conv2(features)).relu())
        features = self.norm3(self.conv3(features)).relu()
        return self.head(features.mean((2, 3)))


def build(image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Build the network with torch's default initialisation.

    Args:
        image_shape: channels, height and width.
        num_classes: number of outputs.

    Returns:
        The network.
    """
    return SmallCNN(image_shape[0], num_classes)
