"""A small multilayer perceptron: flatten, two hidden layers of 256, ReLU."""

from __future__ import annotations

import math

from torch import Tensor, nn

HIDDEN = 256


class MLP(nn.Module):
    """Two hidden layers on the flattened image.

    Args:
        num_inputs: channels times height times width.
        num_classes: number of outputs.
    """

    def __init__(self, num_inputs: int, num_classes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(num_inputs, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, HIDDEN)
        self.head = nn.Linear(HIDDEN, num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Classify images.

        Args:
            images_BCHW: normalised images.

        Returns:
            Logits [B, num_classes].
        """
        hidden = self.fc1(images_BCHW.flatten(1)).relu()
        return self.head(self.fc2(hidden).relu())


def build(image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Build the perceptron with torch's default initialisation.

    Args:
        image_shape: channels, height and width.
        num_classes: number of outputs.

    Returns:
        The perceptron.
    """
    return MLP(math.prod(image_shape), num_classes)
