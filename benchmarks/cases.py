"""What is measured: whole training steps of the paper's kinds of model, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import timm
import torchvision
from torch import nn


def resnet18_cifar() -> nn.Module:
    """The paper's Fig. 3 network: ResNet-18 with a 3x3 stem, max-pool kept."""
    model = torchvision.models.resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    return model


@dataclass(frozen=True)
class Case:
    """A model, its input and the name of its first layer."""

    build: Callable[[], nn.Module]
    shape: tuple[int, int, int, int]
    layer: str
    num_classes: int


CASES = {
    "resnet18-cifar-b128": Case(resnet18_cifar, (128, 3, 32, 32), "conv1", 10),
    "resnet50-224-b16": Case(
        torchvision.models.resnet50, (16, 3, 224, 224), "conv1", 1000
    ),
    "deit-s-224-b16": Case(
        lambda: timm.create_model("deit3_small_patch16_224", drop_path_rate=0.05),
        (16, 3, 224, 224),
        "patch_embed.proj",
        1000,
    ),
}
