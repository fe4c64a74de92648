"""The paper's ViT for 32x32 images: 64 patches of 4x4, 7 blocks, 12 heads, width 384.

Its oddities are those of the network that the paper builds on: the class token and the
positions start from N(0, 1), logits of the attention are divided by the root of the
whole width instead of a head's, and the perceptron ends in a second GELU.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGE_SIDE = 32
PATCH_SIDE = 4
NUM_PATCHES = (IMAGE_SIDE // PATCH_SIDE) ** 2
NUM_ENTRIES = 3 * PATCH_SIDE**2
WIDTH = 384
DEPTH = 7
NUM_HEADS = 12


class Attention(nn.Module):
    """Self-attention with a map of its own for queries, keys, values and outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(WIDTH, WIDTH)
        self.k = nn.Linear(WIDTH, WIDTH)
        self.v = nn.Linear(WIDTH, WIDTH)
        self.o = nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        """Attend.

        Args:
            tokens_BLD: normalised tokens.

        Returns:
            Tokens of the same shape.
        """
        q_BHLE, k_BHLE, v_BHLE = (
            to(tokens_BLD).unflatten(-1, (NUM_HEADS, -1)).transpose(1, 2)
            for to in (self.q, self.k, self.v)
        )
        attended_BHLE = F.scaled_dot_product_attention(
            q_BHLE, k_BHLE, v_BHLE, scale=WIDTH**-0.5
        )
        return self.o(attended_BHLE.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a perceptron as wide as the tokens, each behind a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.attention = Attention()
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.GELU()
        )

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        """Transform tokens.

        Args:
            tokens_BLD: tokens.

        Returns:
            Tokens of the same shape.
        """
        tokens_BLD = tokens_BLD + self.attention(self.norm1(tokens_BLD))
        return tokens_BLD + self.mlp(self.norm2(tokens_BLD))


class CifarViT(nn.Module):
    """A class token and embedded patches through the blocks, then a linear classifier.

    Args:
        num_classes: number of outputs.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.emb = nn.Linear(NUM_ENTRIES, WIDTH)
        self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.randn(1, 1 + NUM_PATCHES, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, num_classes))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Classify images.

        Args:
            images_BCHW: normalised images [B, 3, 32, 32].

        Returns:
            Logits [B, num_classes].
        """
        tokens_BLD = self.emb(extract_patches(images_BCHW))
        cls_B1D = self.cls_token.expand(len(tokens_BLD), -1, -1)
        tokens_BLD = torch.cat([cls_B1D, tokens_BLD], 1) + self.positions
        return self.head(self.blocks(tokens_BLD)[:, 0])


def extract_patches(images_BCHW: Tensor) -> Tensor:
    """Cut images into patches, row by row.

    Args:
        images_BCHW: images whose sides are multiples of 4.

    Returns:
        Patches [B, L, P], entries ordered by row, column and channel.
    """
    tiles = images_BCHW.unfold(2, PATCH_SIDE, PATCH_SIDE)
    tiles = tiles.unfold(3, PATCH_SIDE, PATCH_SIDE)
    return tiles.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


MODELS: dict[str, Callable[[int], nn.Module]] = {"vit": CifarViT}
