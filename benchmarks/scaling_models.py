"""The networks of docs/scaling.md, built on shapes alone: their size and their stem.

Operations are counted by PyTorch's own counter for one image (clip, volume), forward
and backward.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.counting import read_stem

PICTURE = (3, 224, 224)
# Of nnU-Net's plain 3-D network at 128^3.
WIDTHS = (32, 64, 128, 256, 320, 320)


@dataclass(frozen=True)
class Network:
    """One network, and how much a GPU is assumed to see of it in a step."""

    name: str
    library: str
    build: Callable[[], nn.Module]
    stem: str
    sample: tuple[int, ...]
    images: int


def networks() -> list[Network]:
    """All of them; MONAI comes with `trainact[zoo]`, the others with `[lab,dev]`."""
    return [*_pictures(), *_clips(), *_volumes()]


def _pictures() -> Iterator[Network]:
    timm: Any = importlib.import_module("timm")
    vit: Any = importlib.import_module("timm.models.vision_transformer")
    resnet: Any = importlib.import_module("torchvision.models").resnet50
    yield Network("ResNet-50", "torchvision", resnet, "conv1", PICTURE, 256)
    for name, model, images in (
        ("ViT-S/16", "vit_small_patch16_224", 256),
        ("ViT-B/16", "vit_base_patch16_224", 128),
        ("ViT-L/16", "vit_large_patch16_224", 64),
        ("ViT-H/14", "vit_huge_patch14_224", 32),
        ("ViT-g/14", "vit_giant_patch14_224", 16),
    ):
        build = lambda model=model: timm.create_model(model)  # noqa: E731
        yield Network(name, "timm", build, "patch_embed.proj", PICTURE, images)

    def largest() -> nn.Module:
        return vit.VisionTransformer(
            patch_size=14,
            embed_dim=6144,
            depth=48,
            num_heads=48,
            qkv_bias=False,
            qk_norm=True,
            class_token=False,
            global_pool="avg",
            block_fn=vit.ParallelScalingBlock,
        )

    yield Network("ViT-22B/14", "timm", largest, "patch_embed.proj", PICTURE, 4)


def _clips() -> Iterator[Network]:
    video: Any = importlib.import_module("torchvision.models.video")
    hf: Any = importlib.import_module("transformers")
    patches = "embeddings.patch_embeddings.projection"
    yield Network(
        "R3D-18", "torchvision", video.r3d_18, "stem.0", (3, 16, 112, 112), 16
    )
    for name, config, model, frames, clips in (
        ("VideoMAE-B", hf.VideoMAEConfig, hf.VideoMAEModel, 16, 8),
        ("ViViT-B/16x2", hf.VivitConfig, hf.VivitModel, 32, 4),
    ):
        build = lambda config=config, model=model: model(config())  # noqa: E731
        sample = (frames, *PICTURE)
        yield Network(name, "transformers", build, patches, sample, clips)


def _volumes() -> Iterator[Network]:
    try:
        nets: Any = importlib.import_module("monai.networks.nets")
    except ImportError as error:
        raise SystemExit("pip install 'trainact[zoo]' for the 3-D networks") from error
    strides = [1, 2, 2, 2, 2, 2]
    for channels in (1, 4):
        note = f"{channels} channel{'s' if channels > 1 else ''}"

        def unetr(channels: int = channels) -> nn.Module:
            return nets.UNETR(channels, 14, img_size=(96, 96, 96))

        yield Network(
            f"UNETR, {note}",
            "monai",
            unetr,
            "vit.patch_embedding.patch_embeddings",
            (channels, 96, 96, 96),
            2,
        )

        def unet(channels: int = channels) -> nn.Module:
            kernels = [3] * len(strides)
            return nets.DynUNet(
                3, channels, 3, kernels, strides, strides[1:], filters=WIDTHS
            )

        yield Network(
            f"nnU-Net, {note}",
            "monai",
            unet,
            "input_block.conv1.conv",
            (channels, 128, 128, 128),
            2,
        )


def measure(network: Network) -> dict[str, Any]:
    """Count one network: parameters, operations, and what its stem sees."""
    with torch.device("meta"):
        model = network.build().train()
        x = torch.empty(1, *network.sample)
    layer, seen = model.get_submodule(network.stem), list[Tensor]()
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with FlopCounterMode(display=False) as counter:
        _output(model(x)).sum().backward()
    stem = read_stem(layer, seen[0])
    return {
        "kind": "model",
        "name": network.name,
        "library": f"{network.library} {version(network.library)}",
        "params": sum(p.numel() for p in model.parameters()),
        "image_flops": counter.get_total_flops(),
        "images": network.images,
        "layer": {
            "channels": stem.geometry.channels,
            "kernel_size": stem.geometry.kernel_size,
            "stride": stem.geometry.stride,
            "padding": [before for before, _ in stem.geometry.padding],
            "outputs": stem.outputs,
            "sample": stem.shape[1:],
        },
    }


def _output(result: Any) -> Tensor:
    if isinstance(result, Tensor):
        return result
    return result[0] if isinstance(result, tuple | list) else result.last_hidden_state
