"""What the extra ``zoo`` does where nothing of the others is installed."""

from __future__ import annotations

from typing import Any

import torch
from shared import absent, import_all
from torch import Tensor, nn

import trainact


def imports() -> None:
    """Import every module of the extra."""
    absent("jax", "lightning", "tyro")
    import_all("zoo")


def smoke() -> None:
    """Find and convert the first layer of a model of each library; take a step."""
    image = torch.randn(2, 3, 64, 64)
    for name, model, first in _models():
        found = trainact.first_layers(model)
        assert list(found) == [first], (name, list(found))
        trainact.apply(model)
        _scores(model(image)).square().mean().backward()
        gradient = model.get_submodule(first).weight.grad
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
        print(f"{name}: {first} under TrAct")


def _models() -> list[tuple[str, nn.Module, str]]:
    import segmentation_models_pytorch as smp
    from monai.networks.nets import UNet
    from transformers import ViTConfig, ViTForImageClassification

    small: Any = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    config = ViTConfig(image_size=64, num_hidden_layers=1, **small)
    channels = {"spatial_dims": 2, "in_channels": 3, "out_channels": 2}
    return [
        (
            "transformers",
            ViTForImageClassification(config),
            "vit.embeddings.patch_embeddings.projection",
        ),
        (
            "segmentation-models-pytorch",
            smp.Unet("resnet18", encoder_weights=None),
            "encoder.conv1",
        ),
        (
            "monai",
            UNet(**channels, channels=(4, 8), strides=(2,)),
            "model.0.conv",
        ),
    ]


def _scores(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


if __name__ == "__main__":
    imports()
    smoke()
