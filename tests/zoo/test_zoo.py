"""First layers of a cross-section of the models people use.

The whole zoo is swept by ``python -m benchmarks.zoo``, into ``records/zoo``. Here every
kind of stem that it has is represented, with the answer that a person gives.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import trainact

zoo = pytest.importorskip(
    "benchmarks.zoo", reason="the benchmarks are in the repository only"
)
RECORD = Path(__file__).parents[2] / "records" / "zoo" / "first-layers.jsonl"

TIMM = {
    "resnet18": ["conv1"],
    "resnet26d": ["conv1.0"],
    "vit_tiny_patch16_224": ["patch_embed.proj"],
    "efficientnet_b0": ["conv_stem"],
    "tf_efficientnet_b0": ["conv_stem"],
    "convnext_atto": ["stem.0"],
    "mixer_s32_224": ["stem.proj"],
    "nf_resnet26": ["stem.conv"],
    "resnetv2_50x1_bit": ["stem.conv"],
    "crossvit_tiny_240": ["patch_embed.0.proj", "patch_embed.1.proj"],
    "mobileone_s0": ["stem.conv_kxk.0.conv", "stem.conv_scale.conv"],
    "repvgg_a0": ["stem.conv_1x1.conv", "stem.conv_kxk.conv"],
    "inception_v3": ["Conv2d_1a_3x3.conv"],
    "tnt_s_legacy_patch16_224": ["pixel_embed.proj"],
    "naflexvit_base_patch16_gap": ["embeds.proj"],
    "levit_128s": ["stem.conv1.linear"],
}
TORCHVISION = {
    "resnet18": ["conv1"],
    "swin_t": ["features.0.0"],
    "inception_v3": ["Conv2d_1a_3x3.conv"],
    "deeplabv3_mobilenet_v3_large": ["backbone.0.0"],
    "fasterrcnn_mobilenet_v3_large_320_fpn": ["backbone.body.0.0"],
    "r3d_18": ["stem.0"],
    "raft_small": ["context_encoder.convnormrelu.0", "feature_encoder.convnormrelu.0"],
}
TRANSFORMERS = {
    "ViTForImageClassification": ["vit.embeddings.patch_embeddings.projection"],
    "SwinModel": ["embeddings.patch_embeddings.projection"],
    "CLIPModel": ["vision_model.embeddings.patch_embedding"],
    "Siglip2VisionModel": ["embeddings.patch_embedding"],
    "SamModel": ["vision_encoder.patch_embed.projection"],
    "VideoMAEModel": ["embeddings.patch_embeddings.projection"],
    "ResNetModel": ["embedder.embedder.convolution"],
    "LevitModel": ["patch_embeddings.embedding_layer_1.convolution"],
    "ImageGPTModel": ["wte"],
}
MONAI = {
    "UNet(spatial_dims=3, in_channels=1)": [
        "model.0.conv.unit0.conv",
        "model.0.residual",
    ],
    "SegResNet(spatial_dims=3, in_channels=1)": ["convInit.conv"],
    "ViT(in_channels=1, proj_type=perceptron)": ["patch_embedding.patch_embeddings.1"],
}
CASES = [
    (library, name, layers)
    for library, table in {
        "timm": TIMM,
        "torchvision": TORCHVISION,
        "transformers": TRANSFORMERS,
        "monai": MONAI,
    }.items()
    for name, layers in table.items()
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::Warning")
@pytest.mark.parametrize(
    ("library", "name", "layers"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES]
)
def test_first_layers_of_the_zoo(library: str, name: str, layers: list[str]) -> None:
    pytest.importorskip(library)
    (entry,) = (e for e in zoo.LIBRARIES[library]() if e.name == name)
    record = zoo.examine(entry)
    assert record["found"] == record["followed"] == layers, record
    assert record["verdict"] == "agree"


@pytest.mark.slow
@pytest.mark.parametrize(
    "claim", ["layer1.0.conv1", ("conv1", "fc"), ["conv1"], [], None, "gone"]
)
def test_wrong_metadata_is_not_believed(claim) -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet18")
    model.pretrained_cfg = {**model.pretrained_cfg, "first_conv": claim}
    assert list(trainact.first_layers(model)) == ["conv1"]


def test_the_record_has_no_wrong_answer_and_explains_every_exception() -> None:
    records = [json.loads(line) for line in RECORD.read_text().splitlines()]
    assert len(records) > 1000
    for record in records:
        assert record["verdict"] != "WRONG", record
        if record["verdict"] != "agree":
            assert record.get("explanation"), record
        if record.get("first_conv"):
            assert record["metadata"] == "agrees" or record.get("explanation"), record
