"""A small network on patches: three layers with batch norm, then average pooling."""

from __future__ import annotations

from torch import Tensor, nn

WIDTHS = (64, 64, 128)
PATCHES = (4, 16)


class SmallPatches(nn.Module):
    """A convolution on patches, two of 3x3, of 64, 64 and 128 channels; a classifier.

    Args:
        channels: channels of the images.
        patch: height and width of a patch, which is also the stride.
        num_classes: number of outputs.
    """

    def __init__(self, channels: int, patch: int, num_classes: int) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.patches = nn.Conv2d(channels, first, patch, stride=patch)
        self.norm1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(second)
        self.conv3 = nn.Conv2d(second, third, 3, padding=1)
        self.norm3 = nn.BatchNorm2d(third)
        self.head = nn.Linear(third, num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Classify images.

        Args:
            images_BCHW: normalised images, at least as large as a patch.

        Returns:
            Logits [B, num_classes].
        """
        features = self.norm1(self.patches(images_BCHW)).relu()
        features = self.norm2(self.conv2(features)).relu()
        features = self.norm3(self.conv3(features)).relu()
        return self.head(features.mean((2, 3)))


def build(
    image_shape: tuple[int, int, int], num_classes: int, *, patch: int
) -> nn.Module:
    """Build the network with torch's default initialisation.

    Args:
        image_shape: channels, height and width.
        num_classes: number of outputs.
        patch: pixels of a patch's side; of a smaller image it is the shorter side.

    Returns:
        The network.
    """
    channels, height, width = image_shape
    return SmallPatches(channels, min(patch, height, width), num_classes)
