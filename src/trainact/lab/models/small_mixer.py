"""A small MLP-Mixer: timm's, with four blocks of the small vision transformer's width.

Tolstikhin et al., MLP-Mixer: An all-MLP Architecture for Vision, NeurIPS 2021.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from trainact.lab.models.small_vit import DEPTH, WIDTH, patch_size


def build(image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Build the network with timm's initialisation.

    Args:
        image_shape: channels, height and width.
        num_classes: number of outputs.

    Returns:
        The network; its patches are those of ``small-vit``.
    """
    from timm.models import mlp_mixer

    channels, height, width = image_shape
    make: Any = mlp_mixer.MlpMixer
    return make(
        num_classes=num_classes,
        img_size=(height, width),
        in_chans=channels,
        patch_size=patch_size(height, width),
        num_blocks=DEPTH,
        embed_dim=WIDTH,
    )
