"""Networks to be timed that neither torchvision nor timm nor the CIFAR recipes have.

Architecture and sizes are as described, the rest (initial weights, regularisation) is
PyTorch's default.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def vgg16_detection() -> nn.Module:
    """Build the backbone of a VGG-16 Faster R-CNN, with a pooled head in its place.

    Proposals and boxes are left out: they come after the features and change nothing
    about the first layer, but a whole step of the detector takes longer than this.

    Returns:
        The network, for images [B, 3, 600, 800] and 21 classes.
    """
    from torchvision.models import vgg16

    features = nn.Sequential(*list(vgg16(num_classes=21).features.children())[:30])
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 21))
    return nn.Sequential(features, *head)


class VideoViT(nn.Module):
    """Tubelets of 2 x 16 x 16 into a Conv3d, 4 blocks, mean pooling."""

    def __init__(self) -> None:
        super().__init__()
        width = 384
        self.proj = nn.Conv3d(3, width, (2, 16, 16), stride=(2, 16, 16))
        self.positions = nn.Parameter(0.02 * torch.randn(8 * 14 * 14, width))
        block = nn.TransformerEncoderLayer(
            width, 6, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, 4, enable_nested_tensor=False)
        self.head = nn.Linear(width, 400)

    def forward(self, clips_BCTHW: Tensor) -> Tensor:
        """Classify clips.

        Args:
            clips_BCTHW: [B, 3, 16, 224, 224].

        Returns:
            Logits [B, 400].
        """
        tokens = self.proj(clips_BCTHW).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.blocks(tokens).mean(1))


def audio_wav2vec2() -> nn.Module:
    """Build wav2vec 2.0's feature encoder (seven 1-D convolutions) and a pooled head.

    Returns:
        The network, for waveforms [B, 1, 16000] and 10 classes.
    """
    width = 512
    layers: list[nn.Module] = []
    channels = 1
    for kernel, stride in ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)):
        layers.append(nn.Conv1d(channels, width, kernel, stride, bias=False))
        if channels == 1:
            layers.append(nn.GroupNorm(width, width))
        layers.append(nn.GELU())
        channels = width
    head = (nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, 10))
    return nn.Sequential(*layers, *head)
