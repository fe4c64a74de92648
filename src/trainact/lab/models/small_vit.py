"""A small vision transformer: patch embedding, four pre-norm blocks, mean pooling.

The patch size grows with the image: 2 up to 16 pixels, 4 up to 48, 8 up to 96, then 16.
Rows and columns that do not fill a patch are left out, as a strided convolution does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainact.lab.errors import LabError

WIDTH = 64
DEPTH = 4
NUM_HEADS = 4
_PATCH_UP_TO = ((16, 2), (48, 4), (96, 8))
_LARGEST_PATCH = 16


def patch_size(height: int, width: int) -> int:
    """Choose the patch size for an image.

    Args:
        height: of the image.
        width: of the image.

    Returns:
        Side of a patch in pixels.
    """
    side = min(height, width)
    fitting = (patch for limit, patch in _PATCH_UP_TO if side <= limit)
    return next(fitting, _LARGEST_PATCH)


class PatchEmbed(nn.Module):
    """Linear map of non-overlapping patches to tokens.

    Args:
        channels: channels of the images.
        patch: side of a patch.
    """

    def __init__(self, channels: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, WIDTH, patch, stride=patch)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Embed patches.

        Args:
            images_BCHW: normalised images.

        Returns:
            Tokens [B, L, WIDTH].
        """
        return self.proj(images_BCHW).flatten(2).transpose(1, 2)


class Block(nn.Module):
    """Self-attention and a two-layer perceptron, each behind a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, NUM_HEADS, batch_first=True)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
        )

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        """Transform tokens.

        Args:
            tokens_BLD: tokens.

        Returns:
            Tokens of the same shape.
        """
        normed = self.norm1(tokens_BLD)
        attended, _ = self.attention(normed, normed, normed, need_weights=False)
        tokens_BLD = tokens_BLD + attended
        return tokens_BLD + self.mlp(self.norm2(tokens_BLD))


class SmallViT(nn.Module):
    """Four blocks of width 64 with learned positions.

    Args:
        image_shape: channels, height and width.
        num_classes: number of outputs.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        patch = patch_size(height, width)
        num_tokens = (height // patch) * (width // patch)
        self.patch_embed = PatchEmbed(channels, patch)
        self.positions = nn.Parameter(0.02 * torch.randn(num_tokens, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Classify images.

        Args:
            images_BCHW: normalised images.

        Returns:
            Logits [B, num_classes].
        """
        tokens_BLD = self.patch_embed(images_BCHW) + self.positions
        return self.head(self.norm(self.blocks(tokens_BLD)).mean(1))


def build(image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Build the transformer with torch's default initialisation.

    Args:
        image_shape: channels, height and width.
        num_classes: number of outputs.

    Returns:
        The transformer.

    Raises:
        LabError: if the image is smaller than a patch.
    """
    _, height, width = image_shape
    if patch_size(height, width) > min(height, width):
        raise LabError(
            f"images of {height}x{width} are smaller than a patch of small-vit: use "
            "images of 2x2 or more"
        )
    return SmallViT(image_shape, num_classes)
