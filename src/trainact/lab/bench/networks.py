"""Networks that neither torchvision nor timm has: the paper's small ViT, and stems.

They are there to be timed: architecture and sizes are as described, the rest (initial
weights, regularisation) is PyTorch's default.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def resnet18_cifar() -> nn.Module:
    """Build the paper's Fig. 3 network: ResNet-18 with a 3x3 stem, max-pool kept.

    Returns:
        The network, for images [B, 3, 32, 32] and 10 classes.
    """
    from torchvision.models import resnet18

    model = resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    return model


class CifarBlock(nn.Module):
    """Pre-norm block of `CifarViT`.

    Its oddities are those of the network that the paper builds on: logits are divided
    by the root of the whole width, and the perceptron ends in a second GELU.

    Args:
        width: of a token.
        num_heads: of the attention.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k = nn.Linear(width, width), nn.Linear(width, width)
        self.v, self.o = nn.Linear(width, width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU()
        )
        self.num_heads = num_heads

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        """Transform tokens.

        Args:
            tokens_BLD: tokens.

        Returns:
            Tokens of the same shape.
        """
        normed = self.norm1(tokens_BLD)
        q, k, v = (
            to(normed).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for to in (self.q, self.k, self.v)
        )
        scale = tokens_BLD.shape[-1] ** -0.5
        attended = F.scaled_dot_product_attention(q, k, v, scale=scale)
        tokens_BLD = tokens_BLD + self.o(attended.transpose(1, 2).flatten(2))
        return tokens_BLD + self.mlp(self.norm2(tokens_BLD))


class CifarViT(nn.Module):
    """The paper's Fig. 4 network: 4x4 patches into a Linear, 7 blocks, 12 heads."""

    def __init__(self) -> None:
        super().__init__()
        width = 384
        self.emb = nn.Linear(48, width)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 65, width))
        self.blocks = nn.Sequential(*(CifarBlock(width, 12) for _ in range(7)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 10))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Classify images.

        Args:
            images_BCHW: [B, 3, 32, 32].

        Returns:
            Logits [B, 10].
        """
        patches = images_BCHW.unfold(2, 4, 4).unfold(3, 4, 4)
        rows_BLP = patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
        tokens = self.emb(rows_BLP)
        cls = self.cls_token.expand(len(tokens), -1, -1)
        tokens = torch.cat([cls, tokens], 1) + self.positions
        return self.head(self.blocks(tokens)[:, 0])


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
