"""Models of timm and Transformers: their stems get the oracle's gradient.

Stems that embed patches, and stems of classes of their own.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import trainact
from tests.cases import Case
from tests.odd import OddCase, standardised
from tests.tolerances import ORACLE_RTOL, relative_error

P, C, OUT = 4, 3, 5  # patch, channels, outputs
PLAIN = Case("", ())
SAME = OddCase("conv", (), pads=True)
STANDARDISED = OddCase("conv", (), effective=standardised)
SAME_AND_STANDARDISED = OddCase("conv", (), effective=standardised, pads=True)


def images(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def check_stem(
    model: nn.Module, arguments: tuple[Tensor, ...], stem: nn.Module, case: Case = PLAIN
) -> None:
    """Train the model on a batch; compare with what reaches and leaves the stem."""
    seen: list[Tensor] = []

    def watch(_module: nn.Module, inputs: tuple[Tensor, ...], z: Tensor) -> None:
        seen.append(inputs[0])
        z.register_hook(seen.append)

    with stem.register_forward_hook(watch):
        output = model(*arguments)
    output = output if isinstance(output, Tensor) else output[0]
    model.zero_grad()
    output.backward(torch.randn_like(output))
    for key, truth in case.gradients(stem, *seen).items():
        assert relative_error(stem.get_parameter(key).grad, truth) < ORACLE_RTOL


@pytest.mark.parametrize(("bias", "in_chans"), [(False, 1), (True, 3), (True, 5)])
@pytest.mark.parametrize(
    "settings",
    [
        {"flatten": True},
        {"flatten": False, "output_fmt": "NHWC"},
        {"dynamic_img_pad": True, "strict_img_size": False},
    ],
    ids=["flatten", "NHWC", "dynamic_img_pad"],
)
def test_timm_patch_embed(settings, bias: bool, in_chans: int) -> None:
    layers = pytest.importorskip("timm.layers")
    settings = dict(settings, in_chans=in_chans, embed_dim=OUT, bias=bias)
    embed = layers.PatchEmbed(img_size=(12, 8), patch_size=P, **settings).double()
    height = 11 if "dynamic_img_pad" in settings else 12
    x = images(2, in_chans, height, 8)
    check_stem(trainact.apply(embed, layer="proj"), (x,), embed.proj)


def test_timm_naflex_embeds_images_and_packed_patches() -> None:
    naflex = pytest.importorskip("timm.models.naflexvit")
    embed = naflex.NaFlexEmbeds(
        P, C, OUT, proj_type="linear", pos_embed="none", class_token=False
    ).double()
    trainact.apply(embed, layer="proj")
    patches = images(2, 6, C * P * P)
    patches[1, 4:] = 0  # padding of the shorter image: rows of zeros
    coordinates = torch.zeros(2, 6, 2, dtype=torch.long)
    for arguments in ((images(2, C, 12, 8),), (patches, coordinates)):
        check_stem(embed, arguments, embed.proj)


def transformers_case(kind: str) -> tuple[nn.Module, tuple[Tensor, ...], str]:
    transformers = pytest.importorskip("transformers")
    small = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 12,
        "patch_size": P,
    }
    projection = "embeddings.patch_embeddings.projection"
    image = images(2, C, 12, 12)
    if kind == "ViT":
        config = transformers.ViTConfig(**small, num_channels=1)
        return transformers.ViTModel(config), (image[:, :1],), projection
    if kind == "ViTMAE":
        model = transformers.ViTMAEModel(transformers.ViTMAEConfig(**small))
        return model, (image,), projection
    if kind == "VideoMAE":
        config = transformers.VideoMAEConfig(**small, num_frames=4)
        video = images(2, 4, C, 12, 12)
        return transformers.VideoMAEModel(config), (video,), projection
    small.pop("image_size")
    model = transformers.Siglip2VisionModel(
        transformers.Siglip2VisionConfig(**small, num_patches=9)
    )
    shapes = torch.tensor([[3, 3], [2, 3]])
    mask = torch.arange(9)[None] < shapes.prod(1, keepdim=True)
    patches = images(2, 9, C * P * P) * mask[..., None]
    name = next(n for n, _ in model.named_modules() if n.endswith("patch_embedding"))
    return model, (patches, mask.long(), shapes), name


@pytest.mark.parametrize("kind", ["ViT", "ViTMAE", "VideoMAE", "Siglip2"])
def test_transformers(kind: str) -> None:
    model, arguments, name = transformers_case(kind)
    model = trainact.apply(model.double().train(), layer=name)
    check_stem(model, arguments, model.get_submodule(name))


def small_nfnet(**settings: int) -> nn.Module:
    """The build of DeepMind's dm_nfnet_f0, narrow and shallow."""
    nfnet = pytest.importorskip("timm.models.nfnet")
    config = nfnet.NfCfg(
        depths=(1, 1, 1, 1),
        channels=(32, 32, 64, 64),
        stem_type="deep_quad",
        stem_chs=32,
        group_size=16,
        extra_conv=True,
        gamma_in_act=True,
        same_padding=True,
        skipinit=True,
        act_layer="gelu",
    )
    return nfnet.NormFreeNet(config, **settings)


def create(name: str, **settings: int) -> nn.Module:
    if name == "dm_nfnet":
        return small_nfnet(**settings)
    return pytest.importorskip("timm").create_model(name, **settings)


MODELS = [
    ("tf_mobilenetv3_small_100", "conv_stem", "Conv2dSame", SAME, {"in_chans": 1}),
    ("resnetv2_50x1_bit", "stem.conv", "StdConv2d", STANDARDISED, {"in_chans": 5}),
    (
        "vit_tiny_r_s16_p8_224",
        "patch_embed.backbone.conv",
        "StdConv2dSame",
        SAME_AND_STANDARDISED,
        {"img_size": 64},
    ),
    ("nf_regnet_b0", "stem.conv", "ScaledStdConv2d", STANDARDISED, {}),
    (
        "dm_nfnet",
        "stem.conv1",
        "ScaledStdConv2dSame",
        SAME_AND_STANDARDISED,
        {"in_chans": 5},
    ),
]


@pytest.mark.parametrize(("name", "layer", "kind", "case", "settings"), MODELS)
def test_timm_models(
    name: str, layer: str, kind: str, case: OddCase, settings: dict[str, int]
) -> None:
    model = create(name, num_classes=4, **settings)
    stem = model.get_submodule(layer)
    assert type(stem).__name__ == kind
    trainact.apply(model)
    assert list(trainact.tract_layers(model)) == [layer]
    # An odd size, so that TensorFlow's padding is not the same on all sides.
    size = settings.get("img_size", 67)
    x = images(2, settings.get("in_chans", 3), size, size)
    check_stem(model.double(), (x,), stem, case)
    trainact.remove(model)
    assert type(stem).__name__ == kind
