"""DeiT III's networks are those of its official code, not timm's of the same name.

What they compute is compared with a forward pass that is written out here.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import timm
import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

import trainact
from trainact.lab.errors import LabError
from trainact.lab.models import build_model, resolve_model
from trainact.lab.models.deit3 import MODELS, build, names


def on_meta(name: str, side: int) -> nn.Module:
    with torch.device("meta"):
        return build(name, (3, side, side), 1000)


def tiny(shape: tuple[int, int, int] = (3, 16, 24), **options: Any) -> Any:
    torch.manual_seed(0)
    return build("tiny-patch8", shape, 10, **options)


@pytest.mark.parametrize(
    ("name", "side", "count"),
    [("small", 224, 22_059_496), ("base", 224, 86_585_320)],
)
def test_numbers_of_parameters(name: str, side: int, count: int) -> None:
    assert sum(p.numel() for p in on_meta(name, side).parameters()) == count


def test_other_images_have_another_number_of_positions_alone() -> None:
    large, small = (on_meta("base", side).state_dict() for side in (224, 192))
    differing = [key for key in large if large[key].shape != small[key].shape]
    assert differing == ["pos_embed"]
    assert (large["pos_embed"].shape[1], small["pos_embed"].shape[1]) == (196, 144)


@pytest.mark.parametrize("name", ["small", "base"])
def test_weights_have_timms_names_and_shapes(name: str) -> None:
    with torch.device("meta"):
        theirs = timm.create_model(f"deit3_{name}_patch16_224").state_dict()
    ours = on_meta(name, 224).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in theirs.items()
    }


def test_the_tiny_ones_size() -> None:
    model = tiny((1, 16, 24))
    assert model.patch_embed.proj.weight.shape == (192, 1, 8, 8)
    assert model.pos_embed.shape == (1, 6, 192)
    assert {block.attn.num_heads for block in model.blocks} == {3}
    assert len(model.blocks) == 12


# How the weights begin.


def test_layer_scale_begins_at_1e_4() -> None:
    for block in tiny().blocks:
        for gamma in (block.ls1.gamma, block.ls2.gamma):
            assert gamma.tolist() == pytest.approx([1e-4] * 192)


def test_tokens_and_linear_maps_begin_with_std_0_02() -> None:
    model = tiny((3, 64, 64))
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert len(linear) == 4 * 12 + 1
    for weight in (model.cls_token, model.pos_embed, *(m.weight for m in linear)):
        # Six standard errors of a std that is estimated from so many values.
        assert abs(weight.std().item() / 0.02 - 1) < 6 / math.sqrt(2 * weight.numel())
    assert all(not m.bias.any() for m in linear)


def test_the_patches_convolution_begins_as_torchs() -> None:
    """It is the first to draw."""
    model = tiny()
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 192, 8, stride=8)
    torch.testing.assert_close(model.patch_embed.proj.weight, plain.weight)
    torch.testing.assert_close(model.patch_embed.proj.bias, plain.bias)


def test_layer_norms() -> None:
    norms = [m for m in tiny().modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) == 25
    for norm in norms:
        assert norm.eps == 1e-6
        assert (norm.weight == 1).all()
        assert not norm.bias.any()


# Stochastic depth.


def test_every_branch_is_skipped_at_the_same_rate() -> None:
    model = tiny(drop_path=0.3).train()
    ones = torch.ones(4000, 1, 1)
    for block in model.blocks:
        for branch in (block.drop_path1, block.drop_path2):
            assert branch.drop_prob == 0.3
            kept = branch(ones)
            assert 0.25 < (kept == 0).float().mean() < 0.35
            assert kept.max().item() == pytest.approx(1 / 0.7)
    assert sum(isinstance(m, DropPath) for m in model.modules()) == 24


def test_no_branch_is_skipped_at_rate_0_or_in_tests() -> None:
    assert not any(isinstance(m, DropPath) for m in tiny().modules())
    images = torch.randn(2, 3, 16, 24)
    plain, deep = tiny().eval(), tiny(drop_path=0.9).eval()
    torch.testing.assert_close(deep(images), plain(images))
    torch.testing.assert_close(tiny().train()(images), plain(images))


def test_a_skipped_branch_leaves_the_image_as_it_was() -> None:
    block = tiny(drop_path=0.5).train().blocks[0]
    with torch.no_grad():
        block.ls1.gamma.fill_(1.0)
        block.ls2.gamma.fill_(1.0)
    tokens = torch.randn(64, 5, 192)
    is_same = (block(tokens) == tokens).flatten(1).all(1)
    assert 4 <= is_same.sum() <= 30, "both branches are skipped a quarter of the time"


# What they compute.


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    var = centred.square().mean(-1, keepdim=True)
    return centred / (var + 1e-6).sqrt() * norm.weight + norm.bias


def attention(x_BLD: Tensor, attn: Any) -> Tensor:
    """One head after the other."""
    num_heads, width = 3, x_BLD.shape[-1]
    q, k, v = (x_BLD @ attn.qkv.weight.T + attn.qkv.bias).split(width, -1)
    side = width // num_heads
    outputs = []
    for head in range(num_heads):
        part = slice(head * side, (head + 1) * side)
        logits = q[..., part] @ k[..., part].mT / side**0.5
        weights = logits.exp() / logits.exp().sum(-1, keepdim=True)
        outputs.append(weights @ v[..., part])
    return torch.cat(outputs, -1) @ attn.proj.weight.T + attn.proj.bias


def perceptron(x: Tensor, mlp: Any) -> Tensor:
    hidden = x @ mlp.fc1.weight.T + mlp.fc1.bias
    hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
    return hidden @ mlp.fc2.weight.T + mlp.fc2.bias


def by_hand(model: Any, images_BCHW: Tensor) -> Tensor:
    weight = model.patch_embed.proj.weight
    tokens = []
    for top in range(0, images_BCHW.shape[2], 8):
        for left in range(0, images_BCHW.shape[3], 8):
            patch = images_BCHW[:, :, top : top + 8, left : left + 8]
            token = patch.flatten(1) @ weight.flatten(1).T + model.patch_embed.proj.bias
            tokens.append(token + model.pos_embed[0, len(tokens)])
    first = model.cls_token[0].expand(len(images_BCHW), -1)
    x = torch.stack([first, *tokens], 1)
    for block in model.blocks:
        attended = attention(layer_norm(x, block.norm1), block.attn)
        x = x + block.ls1.gamma * attended
        x = x + block.ls2.gamma * perceptron(layer_norm(x, block.norm2), block.mlp)
    return layer_norm(x, model.norm)[:, 0] @ model.head.weight.T + model.head.bias


@pytest.mark.parametrize("scale", [None, 1.0])
def test_the_forward_pass(scale: float | None) -> None:
    """At its beginning, and where all branches matter."""
    model = tiny().double().eval()
    images = torch.randn(3, 3, 16, 24, dtype=torch.float64)
    with torch.no_grad():
        if scale is not None:
            for parameter in model.parameters():
                parameter.normal_(std=0.05)
            for block in model.blocks:
                block.ls1.gamma.normal_(std=scale)
                block.ls2.gamma.normal_(std=scale)
        found, wanted = model(images), by_hand(model, images)
    assert found.shape == (3, 10)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


# By name.


def test_names() -> None:
    assert names() == list(MODELS) == ["small", "base", "tiny-patch8"]
    for name in names():
        assert resolve_model(f"deit3:{name}") == f"deit3:{name}"
    with pytest.raises(LabError, match=r"did you mean 'small'"):
        resolve_model("deit3:smal")


def test_build_model_gives_the_rate() -> None:
    model: Any = build_model("deit3:tiny-patch8", (3, 16, 16), 5, drop_path=0.2)
    assert model.blocks[0].drop_path1.drop_prob == 0.2
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 5)


@pytest.mark.parametrize("name", ["small-cnn", "timm:deit3_small_patch16_224"])
def test_others_have_no_such_rate(name: str) -> None:
    with pytest.raises(LabError, match=r"rate 0\.1 in all blocks") as caught:
        build_model(name, (3, 224, 224), 10, drop_path=0.1)
    assert "\n" not in str(caught.value)


def test_images_that_are_not_made_of_patches() -> None:
    with pytest.raises(LabError, match="patches of 16 x 16 and these have 224 x 30"):
        build("small", (3, 224, 30), 10)


def test_trainact_finds_the_first_layer() -> None:
    model = tiny((3, 16, 16))
    for example in (None, torch.zeros(1, 3, 16, 16)):
        found = trainact.first_layers(model, example_input=example)
        assert list(found) == ["patch_embed.proj"]
