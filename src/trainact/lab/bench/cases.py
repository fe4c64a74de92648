"""What is measured, as data: the paper's settings, and stems that it has not."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from trainact.lab.bench import networks
from trainact.lab.errors import LabError, did_you_mean
from trainact.lab.models import build_model


@dataclass(frozen=True)
class Case:
    """A model, what it takes and its first layer.

    Attributes:
        name: without the batch size.
        build: makes it, with random weights.
        layer: qualified name of its first layer.
        sample: shape of one input.
        batch_gpu: samples per step, the paper's where it has the case.
        batch_cpu: what a CPU with two cores bears.
        axis: of a scaling curve that this is a point of, or None.
        value: where on the axis.
    """

    name: str
    build: Callable[[], nn.Module]
    layer: str
    sample: tuple[int, ...]
    batch_gpu: int
    batch_cpu: int
    axis: str | None = None
    value: int = 0

    def with_batch(self, batch: int | None) -> Case:
        """Fix the samples per step.

        Args:
            batch: how many; None leaves the defaults.

        Returns:
            The case with that batch on every device.
        """
        if batch is None:
            return self
        return replace(self, batch_gpu=batch, batch_cpu=batch)


def _named(name: str, side: int = 224) -> Callable[[], nn.Module]:
    return lambda: build_model(name, (3, side, side), 1000)


def _cifar(name: str) -> Callable[[], nn.Module]:
    return lambda: build_model(f"cifar:{name}", (3, 32, 32), 10)


_ROWS: tuple[Case, ...] = (
    Case(
        "resnet18-cifar",
        _cifar("resnet18-maxpool"),
        "conv1",
        (3, 32, 32),
        128,
        128,
    ),
    Case("vit-cifar", _cifar("vit"), "emb", (3, 32, 32), 128, 128),
    Case(
        "resnet18-224", _named("torchvision:resnet18"), "conv1", (3, 224, 224), 256, 16
    ),
    Case(
        "resnet34-224", _named("torchvision:resnet34"), "conv1", (3, 224, 224), 256, 16
    ),
    Case(
        "resnet50-224", _named("torchvision:resnet50"), "conv1", (3, 224, 224), 256, 16
    ),
    Case(
        "deit-s-224",
        _named("timm:deit3_small_patch16_224"),
        "patch_embed.proj",
        (3, 224, 224),
        256,
        16,
    ),
    Case(
        "deit-b-192",
        _named("timm:deit3_base_patch16_224", 192),
        "patch_embed.proj",
        (3, 192, 192),
        256,
        16,
    ),
    Case("vgg16-detection", networks.vgg16_detection, "0.0", (3, 600, 800), 2, 1),
    Case("video-vit", networks.VideoViT, "proj", (3, 16, 224, 224), 16, 2),
    Case("audio-wav2vec2", networks.audio_wav2vec2, "0", (1, 16000), 64, 8),
)
CASES = {case.name: case for case in _ROWS}


def find_case(text: str, batch: int | None = None) -> Case:
    """Look a case up.

    Args:
        text: its name, with or without a batch size: ``deit-s-224-b16``.
        batch: samples per step, where the name has none.

    Returns:
        The case.

    Raises:
        LabError: if there is none of that name.
    """
    match = re.fullmatch(r"(.+)-b([1-9]\d*)", text)
    name = match[1] if match else text
    if name not in CASES:
        raise LabError(
            f"case {name!r} is not known{did_you_mean(name, CASES)}: give "
            f"{', '.join(CASES)}, or a model of your own with --model"
        )
    return CASES[name].with_batch(int(match[2]) if match else batch)
