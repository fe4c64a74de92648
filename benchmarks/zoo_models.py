"""The models of the zoo, each with an input that its own documentation gives it.

The inputs are written down here independently of what the library makes up, since
following them is the truth that the library's answer is compared with.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Entry:
    """One model: how to build it, and what it takes."""

    library: str
    name: str
    build: Callable[[], nn.Module]
    example: Callable[[nn.Module], Any]
    device: str = "meta"

    @property
    def version(self) -> str:
        return version(self.library) if self.library != "written" else "-"


def image(*shape: int, device: str = "meta") -> Tensor:
    return torch.empty(shape, device=device).fill_(0.5)


def timm_models() -> Iterator[Entry]:
    import timm

    for name in timm.list_models():
        yield Entry(
            "timm",
            name,
            lambda name=name: timm.create_model(name),
            _timm_example,
        )


def _timm_example(model: Any) -> Tensor:
    return image(2, *model.pretrained_cfg["input_size"])


def torchvision_models() -> Iterator[Entry]:
    from torchvision import models

    examples: tuple[tuple[Any, Callable[[str], Any]], ...] = (
        (models, lambda name: image(2, 3, *_side(name))),
        (models.segmentation, lambda _: image(2, 3, 224, 224)),
        (models.video, lambda name: image(2, 3, 16, *_side(name))),
        (models.optical_flow, lambda _: (image(1, 3, 128, 128),) * 2),
        (models.quantization, lambda name: image(2, 3, *_side(name))),
        # They depend on values, so they are run for real.
        (models.detection, lambda _: [[image(3, 64, 64, device="cpu")]]),
    )
    for module, example in examples:
        for name in models.list_models(module=module):
            yield Entry(
                "torchvision",
                name,
                lambda name=name: _torchvision(name),
                lambda _, name=name, example=example: example(name),
                "cpu" if module is models.detection else "meta",
            )


def _side(name: str) -> tuple[int, int]:
    if "inception" in name:
        return 299, 299
    return (112, 112) if name.startswith(("r3d", "mc3", "r2plus")) else (224, 224)


def _torchvision(name: str) -> nn.Module:
    from torchvision import models

    options: dict[str, Any] = {}
    if any(k in name for k in ("rcnn", "ssd", "retinanet", "fcos")):
        options = {"weights_backbone": None}
        if "ssd" not in name:
            options |= {"min_size": 64, "max_size": 64}
    elif name.startswith(("fcn", "deeplab", "lraspp")):
        options = {"weights_backbone": None}
    elif name in ("googlenet", "inception_v3"):
        options = {"init_weights": False}
    return models.get_model(name, weights=None, **options)


def transformers_models() -> Iterator[Entry]:
    import transformers
    from transformers.models.auto import modeling_auto

    names: set[str] = set(TRANSFORMERS_TOWERS)
    for task in TRANSFORMERS_TASKS:
        mapping = getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES", {})
        for value in mapping.values():
            names.update([value] if isinstance(value, str) else value)
    for name in sorted(names):
        if hasattr(transformers, name) and name not in TRANSFORMERS_WRAPPERS:
            yield Entry(
                "transformers",
                name,
                lambda name=name: _transformers(name),
                _transformers_example,
                "cpu" if name.startswith(TRANSFORMERS_REAL) else "meta",
            )


TRANSFORMERS_TASKS = (
    "BACKBONE", "CAUSAL_IMAGE_MODELING", "DEPTH_ESTIMATION", "IMAGE",
    "IMAGE_CLASSIFICATION", "IMAGE_MATTING", "IMAGE_SEGMENTATION", "IMAGE_TO_IMAGE",
    "INSTANCE_SEGMENTATION", "KEYPOINT_DETECTION", "KEYPOINT_MATCHING",
    "MASKED_IMAGE_MODELING", "MASK_GENERATION", "OBJECT_DETECTION",
    "SEMANTIC_SEGMENTATION", "UNIVERSAL_SEGMENTATION", "VIDEO_CLASSIFICATION",
    "ZERO_SHOT_IMAGE_CLASSIFICATION", "ZERO_SHOT_OBJECT_DETECTION",
)  # fmt: skip
# Vision towers that no task of the auto classes lists, and models of two modalities.
TRANSFORMERS_TOWERS = (
    "AlignVisionModel", "AltCLIPVisionModel", "Blip2VisionModel", "BlipVisionModel",
    "CLIPVisionModel", "CLIPVisionModelWithProjection", "CLIPSegVisionModel",
    "ChineseCLIPVisionModel", "GitVisionModel", "GroupViTModel", "GroupViTVisionModel",
    "Idefics3VisionTransformer", "InstructBlipVisionModel", "InternVLVisionModel",
    "MetaClip2VisionModel", "OwlViTVisionModel", "Owlv2VisionModel",
    "PixtralVisionModel",
    "Qwen2VLForConditionalGeneration", "SamVisionModel", "Sam2VisionModel",
    "Siglip2VisionModel", "ViTMAEForPreTraining", "VideoMAEForPreTraining",
    "XCLIPModel", "XCLIPVisionModel", "ViltModel", "FlavaImageModel", "FlavaModel",
    "BridgeTowerModel", "LayoutLMv3Model", "Kosmos2Model", "VisionTextDualEncoderModel",
    "PerceiverForOpticalFlow", "UperNetForSemanticSegmentation", "TvltModel",
    "TvpModel", "Mask2FormerModel", "MaskFormerModel", "OneFormerModel",
)  # fmt: skip
# They wrap a model that only a download or a choice of the user's determines.
TRANSFORMERS_WRAPPERS = (
    "TimmBackbone", "TimmWrapperModel", "TimmWrapperForImageClassification",
    "VisionEncoderDecoderModel", "VisionTextDualEncoderModel",
)  # fmt: skip


# Options that a class needs beside the defaults of its configuration.
TRANSFORMERS_OPTIONS: dict[str, dict[str, Any]] = {
    "BeitForSemanticSegmentation": {"out_indices": [3, 5, 7, 11]},
    "Data2VecVisionForSemanticSegmentation": {"out_indices": [3, 5, 7, 11]},
    "ConvNextBackbone": {"hidden_sizes": [96, 192, 384, 768]},
    "ConvNextV2Backbone": {"hidden_sizes": [96, 192, 384, 768]},
    "FocalNetBackbone": {"hidden_sizes": [192, 384, 768, 768]},
    "PerceiverForImageClassificationFourier": {"num_latents": 8, "d_model": 261,
        "num_cross_attention_heads": 1, "num_self_attends_per_block": 1},
    "PerceiverForImageClassificationConvProcessing": {"num_latents": 8, "d_model": 322,
        "num_cross_attention_heads": 1, "num_self_attends_per_block": 1},
    "PerceiverForImageClassificationLearned": {"num_latents": 8, "d_model": 512,
        "num_cross_attention_heads": 1, "num_self_attends_per_block": 1},
    "PerceiverForOpticalFlow": {"num_latents": 8, "d_model": 322,
        "num_cross_attention_heads": 1, "num_self_attends_per_block": 1,
        "train_size": [368, 496]},
}  # fmt: skip
# Their defaults fix other sizes than their configurations say at the top.
TRANSFORMERS_SHAPES: dict[str, tuple[int, ...]] = {
    "DepthPro": (1, 3, 1536, 1536),
    "EdgeTam": (1, 3, 1024, 1024),
    "EfficientLoFTR": (1, 2, 1, 480, 640),
    "LightGlue": (1, 2, 3, 480, 640),
    "LwDetr": (1, 3, 1024, 1024),
    "OneFormer": (1, 3, 512, 512),
    "PerceiverForImageClassification": (1, 3, 224, 224),
    "PerceiverForImageClassificationLearned": (1, 3, 56, 56),
    "PerceiverForOpticalFlow": (1, 2, 27, 368, 496),
    "RfDetr": (1, 3, 512, 512),
    "Sam2": (1, 3, 1024, 1024),
    "Siglip2": (2, 16, 768),
    "SuperGlue": (1, 2, 3, 480, 640),
    "Tvp": (1, 48, 3, 448, 448),
    "Videomt": (1, 2, 3, 640, 640),
    "XCLIPVision": (8, 3, 224, 224),
}
# Their forward depends on values, so they are run for real.
TRANSFORMERS_REAL = (
    "Eomt", "GroundingDino", "LightGlue", "MMGroundingDino", "OneFormer",
    "PPDocLayout", "SuperGlue", "SuperPoint", "VideoMAEForPreTraining", "Videomt",
)  # fmt: skip


def _transformers(name: str) -> nn.Module:
    import transformers

    cls = getattr(transformers, name)
    config = cls.config_class(**TRANSFORMERS_OPTIONS.get(name, {}))
    parts: tuple[Any, ...] = (config, getattr(config, "backbone_config", None))
    for part in parts:
        if getattr(part, "use_pretrained_backbone", None):
            part.use_pretrained_backbone = False
    return cls(config)


def _transformers_example(model: Any) -> dict[str, Any]:
    config = getattr(model.config, "vision_config", None) or model.config
    size = _first(config, "image_size", "img_size", "input_size", default=224)
    height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    channels = _first(config, "num_channels", "in_channels", "in_chans", default=3)
    frames = _first(config, "num_frames", "frames_per_clip", "tubelet_frames")
    shape = (2, channels, height, width)
    if frames is not None:
        shape = (2, frames, channels, height, width)
    name = type(model).__name__
    for prefix, own in TRANSFORMERS_SHAPES.items():
        shape = own if name.startswith(prefix) else shape
    accepted = inspect.signature(model.forward).parameters
    example: dict[str, Any] = {}
    for key in ("pixel_values", "pixel_values_videos", "inputs"):
        if key in accepted:
            example[key] = image(*shape, device=next(model.parameters()).device.type)
            break
    ids = torch.ones(shape[0], 8, dtype=torch.long)
    extras = {
        "input_ids": ids,
        "decoder_input_ids": ids,
        "bool_masked_pos": torch.arange(1568).expand(shape[0], 1568) < 784,
        "task_inputs": torch.ones(shape[0], 77, dtype=torch.long),
        "spatial_shapes": torch.full((shape[0], 2), 4),
        "pixel_attention_mask": torch.ones(shape[0], 16, dtype=torch.long),
    }
    needed = {n for n, p in accepted.items() if p.default is p.empty}
    usual = {"input_ids", "decoder_input_ids", "spatial_shapes", "pixel_attention_mask"}
    needed |= usual & set(accepted)
    return example | {n: v for n, v in extras.items() if n in needed}


def _first(config: Any, *names: str, default: Any = None) -> Any:
    for name in names:
        if getattr(config, name, None) is not None:
            return getattr(config, name)
    return default


SEGMENTATION_ARCHITECTURES = (
    "Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3",
    "DeepLabV3Plus", "UPerNet", "Segformer", "DPT",
)  # fmt: skip


def segmentation_models() -> Iterator[Entry]:
    smp = importlib.import_module("segmentation_models_pytorch")
    encoders = smp.encoders.get_encoder_names()
    for arch in SEGMENTATION_ARCHITECTURES:
        name = "tu-vit_base_patch16_224" if arch == "DPT" else "resnet34"
        yield _segmentation(smp, arch, name)
    for encoder in encoders:
        if encoder != "resnet34":
            yield _segmentation(smp, "Unet", encoder)


def _segmentation(smp: Any, arch: str, encoder: str) -> Entry:
    return Entry(
        "segmentation-models-pytorch",
        f"{arch}({encoder})",
        lambda: getattr(smp, arch)(encoder, encoder_weights=None),
        lambda _: image(2, 3, 224, 224),
    )


def monai_models() -> Iterator[Entry]:
    nets = importlib.import_module("monai.networks.nets")
    volume, big = (1, 1, 32, 32, 32), (1, 1, 96, 96, 96)
    net = {"spatial_dims": 3, "in_channels": 1}
    unet = {"out_channels": 2, "channels": (8, 16, 32), "strides": (2, 2)}
    vit = {"in_channels": 1, "img_size": (96, 96, 96)}
    patches = {**vit, "patch_size": (16, 16, 16)}
    coder = {"channels": (4, 8), "strides": (2, 2)}
    blocks = {"kernel_size": [3] * 3, "strides": [1, 2, 2]}
    rows: list[tuple[str, dict[str, Any], tuple[int, ...]]] = [
        ("UNet", {**net, **unet, "num_res_units": 2}, volume),
        ("UNet", {**unet, "spatial_dims": 2, "in_channels": 4}, (1, 4, 32, 32)),
        ("BasicUNet", {**net, "out_channels": 2}, volume),
        ("BasicUNetPlusPlus", {**net, "out_channels": 2}, volume),
        ("AttentionUnet", {**net, **unet}, volume),
        (
            "DynUNet",
            {**net, "out_channels": 2, **blocks, "upsample_kernel_size": [2, 2]},
            volume,
        ),
        ("VNet", {**net, "out_channels": 2}, volume),
        ("SegResNet", {**net, "out_channels": 2}, volume),
        ("SegResNetVAE", {"input_image_size": (32, 32, 32), "in_channels": 1}, volume),
        ("SegResNetDS", {**net, "out_channels": 2}, volume),
        ("UNETR", {**vit, "out_channels": 2}, big),
        ("SwinUNETR", {"in_channels": 1, "out_channels": 2, "feature_size": 24}, big),
        ("ViT", {**patches, "classification": True}, big),
        ("ViT", {**patches, "proj_type": "perceptron"}, big),
        ("ViTAutoEnc", patches, big),
        ("MaskedAutoEncoderViT", patches, big),
        ("DenseNet121", {**net, "out_channels": 2}, big),
        ("resnet18", {"spatial_dims": 3, "n_input_channels": 1}, big),
        ("SEResNet50", net, big),
        (
            "EfficientNetBN",
            {**net, "model_name": "efficientnet-b0", "pretrained": False},
            big,
        ),
        ("HighResNet", {**net, "out_channels": 2}, volume),
        ("AutoEncoder", {**net, **coder, "out_channels": 1}, volume),
        (
            "VarAutoEncoder",
            {**coder, "spatial_dims": 3, "in_shape": (1, 32, 32, 32),
             "out_channels": 1, "latent_size": 8},
            volume,
        ),
        ("MedNeXt", {**net, "out_channels": 2, "init_filters": 8}, volume),
        (
            "FlexibleUNet",
            {"in_channels": 3, "out_channels": 2, "backbone": "efficientnet-b0"},
            (1, 3, 64, 64),
        ),
        ("Classifier", {**coder, "in_shape": (1, 32, 32), "classes": 2}, volume[:-1]),
        ("Regressor", {**coder, "in_shape": (1, 32, 32), "out_shape": 1}, volume[:-1]),
        (
            "FullyConnectedNet",
            {"in_channels": 64, "out_channels": 2, "hidden_channels": [32, 16]},
            (2, 64),
        ),
        ("MILModel", {"num_classes": 2, "pretrained": False}, (1, 4, 3, 64, 64)),
        ("AHNet", {"spatial_dims": 3, "out_channels": 2}, (1, 1, 128, 128, 64)),
        ("HoVerNet", {}, (1, 3, 256, 256)),
        ("Quicknat", {"num_classes": 2}, (1, 1, 64, 64)),
        ("TorchVisionFCModel", {"model_name": "resnet18"}, (1, 3, 224, 224)),
    ]  # fmt: skip
    for name, options, shape in rows:
        yield Entry(
            "monai",
            f"{name}({_short(options)})",
            lambda name=name, options=options: getattr(nets, name)(**options),
            lambda _, shape=shape: image(*shape),
        )


def _short(options: dict[str, Any]) -> str:
    keys = ("spatial_dims", "in_channels", "model_name", "proj_type")
    return ", ".join(f"{k}={options[k]}" for k in keys if k in options)
