"""The vision transformers of DeiT III: ``deit3:small``, ``deit3:base``, patches of 16.

timm's `VisionTransformer`, with what the official code of DeiT III does otherwise than
timm's own ``deit3_*``: LayerScale starts at 1e-4 (timm: 1e-6), the class token from a
truncated normal distribution with std 0.02 (timm: normal, 1e-6), and the rate of
stochastic depth is the same in all blocks (timm: it rises from 0). As in both, only the
patches have positions, and the convolution that embeds them keeps torch's own
initialisation.

``deit3:tiny-patch8`` is no network of DeiT III: the tiny one of its code with patches
of 8, for small images.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from trainact.lab.errors import LabError

DEPTH = 12
LAYER_SCALE = 1e-4
TOKEN_STD = 0.02


@dataclass(frozen=True)
class Size:
    """What the networks differ in.

    Attributes:
        width: of the tokens.
        num_heads: of every attention.
        patch_side: in pixels.
    """

    width: int
    num_heads: int
    patch_side: int = 16


MODELS = {
    "small": Size(384, 6),
    "base": Size(768, 12),
    "tiny-patch8": Size(192, 3, patch_side=8),
}


def names() -> list[str]:
    """List the networks.

    Returns:
        Their names.
    """
    return list(MODELS)


def build(
    name: str,
    image_shape: tuple[int, int, int],
    num_classes: int,
    drop_path: float = 0.0,
) -> nn.Module:
    """Build a network with random weights from torch's global generator.

    Args:
        name: a key of `MODELS`.
        image_shape: channels, height and width.
        num_classes: number of outputs.
        drop_path: probability with which a training image skips a branch of a block,
            the same for every branch.

    Returns:
        The network.

    Raises:
        LabError: if the images are not made of whole patches.
    """
    from timm.layers.drop import DropPath
    from timm.layers.weight_init import trunc_normal_
    from timm.models.vision_transformer import VisionTransformer

    size = MODELS[name]
    channels, height, width = image_shape
    if height % size.patch_side or width % size.patch_side:
        raise LabError(
            f"deit3:{name} cuts images into patches of {size.patch_side} x "
            f"{size.patch_side} and these have {height} x {width}: give an "
            f"--image-size that is a multiple of {size.patch_side}"
        )
    model = VisionTransformer(
        img_size=(height, width),
        patch_size=size.patch_side,
        in_chans=channels,
        num_classes=num_classes,
        embed_dim=size.width,
        depth=DEPTH,
        num_heads=size.num_heads,
        no_embed_class=True,
        init_values=LAYER_SCALE,
    )
    trunc_normal_(model.cls_token, std=TOKEN_STD)
    if drop_path:
        for block in model.blocks:
            block.drop_path1 = DropPath(drop_path)
            block.drop_path2 = DropPath(drop_path)
    return model
