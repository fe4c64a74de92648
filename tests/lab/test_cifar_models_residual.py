"""Residual networks and the ViT for 32x32 images: sizes, first layers, oddities."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import SqueezeExcitation

import trainact
from tests.tolerances import ORACLE_RTOL, relative_error
from trainact.lab.models.cifar import resnet, resnext, senet, vit

MODELS = {**resnet.MODELS, **resnext.MODELS, **senet.MODELS, **vit.MODELS}

# name: parameters at 100 classes, name of the stem, whether it has a bias
NETWORKS = {
    "resnet18": (11_220_132, "conv1.0", False),
    "resnet34": (21_328_292, "conv1.0", False),
    "resnet50": (23_705_252, "conv1.0", False),
    "resnet101": (42_697_380, "conv1.0", False),
    "resnet152": (58_341_028, "conv1.0", False),
    "resnet18-maxpool": (11_220_132, "conv1", False),
    "resnext50": (14_788_772, "conv1.0", False),
    "resnext101": (25_303_204, "conv1.0", False),
    "resnext152": (33_343_652, "conv1.0", False),
    "seresnet18": (11_314_012, "pre.0", True),
    "seresnet34": (21_498_000, "pre.0", True),
    "seresnet50": (26_262_804, "pre.0", True),
    "seresnet101": (47_527_764, "pre.0", True),
    "seresnet152": (65_045_780, "pre.0", True),
}

DEEP = ("101", "152")

# The standard deviation of some hundred random numbers errs by up to 4 %.
SAMPLED = 0.1


def build_meta(name: str, num_classes: int = 100) -> nn.Module:
    with torch.device("meta"):
        return MODELS[name](num_classes)


def images(*, device: str = "cpu") -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, device=device)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_table_is_complete() -> None:
    assert set(MODELS) == {*NETWORKS, "vit"}


@pytest.mark.parametrize("name", NETWORKS)
def test_size_and_stem(name: str) -> None:
    parameters, stem, bias = NETWORKS[name]
    model = build_meta(name)
    assert count(model) == parameters
    ((found, layer),) = trainact.first_layers(model).items()
    assert found == stem
    assert isinstance(layer, nn.Conv2d)
    assert (layer.kernel_size, layer.stride) == ((3, 3), (1, 1))
    assert (layer.padding, layer.dilation, layer.groups) == ((1, 1), (1, 1), 1)
    assert (layer.out_channels, layer.bias is not None) == (64, bias)
    assert layer.weight[0].numel() == 27
    assert layer(images(device="meta")).shape == (2, 64, 32, 32)


@pytest.mark.parametrize("name", NETWORKS)
def test_last_stage(name: str) -> None:
    """Four stages of strides 1, 2, 2, 2: 4x4 at the end, 2x2 behind a max-pool."""
    model = build_meta(name, num_classes=10).eval()
    pooled = [m for m in model.modules() if isinstance(m, nn.AdaptiveAvgPool2d)]
    sizes: list[torch.Size] = []
    pooled[-1].register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape))
    assert model(images(device="meta")).shape == (2, 10)
    side = 2 if name == "resnet18-maxpool" else 4
    assert [size[-2:] for size in sizes] == [(side, side)]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name[-3:] in DEEP else [])
        for name in MODELS
    ],
)
def test_a_step(name: str) -> None:
    model = trainact.apply(MODELS[name](100))
    logits = model(images())
    assert logits.shape == (2, 100)
    assert logits.isfinite().all()
    F.cross_entropy(logits, torch.tensor([3, 98])).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50", "seresnet18"])
def test_default_initialisation(name: str) -> None:
    for layer in large_layers(MODELS[name](100)):
        variance = 1 / (3 * layer.weight[0].numel())
        assert layer.weight.std().item() == pytest.approx(variance**0.5, rel=SAMPLED)


def test_initialisation_with_maxpool() -> None:
    """Kaiming's over the outputs, and no block that starts as the identity."""
    model = MODELS["resnet18-maxpool"](10)
    for layer in large_layers(model):
        if isinstance(layer, nn.Conv2d):
            variance = 2 / layer.weight[:, 0].numel()
            assert layer.weight.std().item() == pytest.approx(
                variance**0.5, rel=SAMPLED
            )
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 20
    assert all((norm.weight == 1).all() for norm in norms)


def large_layers(model: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    return [layer for layer in layers if layer.weight.numel() > 1000]


def test_what_seresnets_squeeze_is_rectified() -> None:
    model = MODELS["seresnet18"](10)
    lowest: list[torch.Tensor] = []
    for module in model.modules():
        if isinstance(module, SqueezeExcitation):
            module.register_forward_pre_hook(
                lambda _, args: lowest.append(args[0].min())
            )
    model(images())
    assert lowest == [0] * 8
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert all(conv.bias is not None for conv in convs)


def test_vit_size_and_stem() -> None:
    model = build_meta("vit", num_classes=10)
    assert count(model) == 6_268_810
    ((found, layer),) = trainact.first_layers(model).items()
    assert found == "emb"
    assert isinstance(layer, nn.Linear)
    assert layer.weight.shape == (384, 48)
    assert layer.bias is not None


def test_vit_tokens_start_from_unit_variance() -> None:
    model = vit.CifarViT(10)
    assert model.positions.shape == (1, 65, 384)
    assert model.positions.std().item() == pytest.approx(1, rel=SAMPLED)
    assert model.cls_token.std().item() == pytest.approx(1, rel=SAMPLED)


def explicit_patches(images_BCHW: torch.Tensor) -> torch.Tensor:
    """64 patches of 4x4; within one the channel runs fastest, then the column."""
    rows_BCHW = [
        images_BCHW[:, :, top : top + 4, left : left + 4]
        for top in range(0, 32, 4)
        for left in range(0, 32, 4)
    ]
    return torch.stack([row.movedim(1, 3).flatten(1) for row in rows_BCHW], 1)


def test_vit_patches() -> None:
    pixels = images()
    patches = vit.extract_patches(pixels)
    assert torch.equal(patches, explicit_patches(pixels))
    assert patches[1, 8 * 2 + 5, 3 * (4 * 1 + 2) + 1] == pixels[1, 1, 9, 22]


def test_vit_classifies_by_the_class_token() -> None:
    model = vit.CifarViT(10)
    model.blocks = nn.Sequential()
    token = model.cls_token[0, 0] + model.positions[0, 0]
    assert torch.equal(model(images()), model.head(token.expand(2, -1)))


def test_vit_block_written_out() -> None:
    block = vit.Block().double()
    tokens = torch.randn(2, 5, 384, dtype=torch.float64)
    attention = block.attention
    normed = block.norm1(tokens)
    q, k, v = attention.q(normed), attention.k(normed), attention.v(normed)
    heads = [
        (q[..., h] @ k[..., h].mT / 384**0.5).softmax(-1) @ v[..., h]
        for h in (slice(start, start + 32) for start in range(0, 384, 32))
    ]
    attended = tokens + attention.o(torch.cat(heads, -1))
    first, second = (m for m in block.mlp if isinstance(m, nn.Linear))
    hidden = F.gelu(second(F.gelu(first(block.norm2(attended)))))
    assert relative_error(block(tokens), attended + hidden) < ORACLE_RTOL


def test_vit_under_tract() -> None:
    lam = 0.1
    plain = vit.CifarViT(10).double()
    model = trainact.apply(copy.deepcopy(plain), lam=lam)
    pixels = images().double()
    for one in (plain, model):
        F.cross_entropy(one(pixels), torch.tensor([3, 8])).backward()
    rows_NP = explicit_patches(pixels).flatten(0, 1)
    damped_PP = rows_NP.T @ rows_NP / len(rows_NP) + lam * torch.eye(48).double()
    expected = plain.emb.weight.grad @ torch.linalg.inv(damped_PP)
    assert relative_error(model.emb.weight.grad, expected) < ORACLE_RTOL
    ordinary = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        if name != "emb.weight":
            assert relative_error(parameter.grad, ordinary[name].grad) < ORACLE_RTOL
