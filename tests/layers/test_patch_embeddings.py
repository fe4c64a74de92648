"""Stems that are no plain convolution of the image, and the models that have them.

One linear map of patches may be written in many ways: as a convolution, as a linear
layer on unfolded patches in any order of entries, behind space-to-depth, on packed
sequences. All get the same gradient, up to the order of entries, because all have the
same rows (`test_*_is_the_convolution`). Where patches are dropped before the layer, the
rows are the visible ones.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import trainact
from tests.cases import backward, oracle_gradient
from tests.tolerances import ORACLE_RTOL, relative_error
from trainact import reference

P, C, OUT = 4, 3, 5  # patch, channels, outputs
IMAGES = (2, C, 12, 8)


def images(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def convolution(x: Tensor, **settings: int) -> tuple[Tensor, Tensor, nn.Conv2d]:
    """Gradient of a convolution under TrAct, that of its outputs, and the layer."""
    settings = {"kernel_size": P, "stride": P, **settings}
    conv = trainact.TrAct(nn.Conv2d(x.shape[1], OUT, **settings).double())
    _, grad_z = backward(conv, x)
    return conv.weight.grad, grad_z, conv


def gradient_of_linear(weight_OP: Tensor, x: Tensor, grad_z: Tensor) -> Tensor:
    """Gradient of a linear layer with this weight under TrAct."""
    layer = nn.Linear(weight_OP.shape[1], OUT, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(weight_OP)
    trainact.TrAct(layer)
    layer(x).backward(grad_z)
    return layer.weight.grad


def tokens(z: Tensor) -> Tensor:
    return z.flatten(2).mT


@pytest.mark.parametrize(("stride", "padding"), [(P, 0), (2, 1)])
def test_unfold_and_linear_is_the_convolution(stride: int, padding: int) -> None:
    x = images(*IMAGES)
    truth, grad_z, conv = convolution(x, stride=stride, padding=padding)
    rows = F.unfold(x, P, padding=padding, stride=stride).mT
    gradient = gradient_of_linear(conv.weight.flatten(1), rows, tokens(grad_z))
    assert relative_error(gradient, truth.flatten(1)) < ORACLE_RTOL


@pytest.mark.parametrize("order", ["channel, row, column", "row, column, channel"])
def test_linear_on_patches_is_the_convolution(order: str) -> None:
    # MLP-Mixer and ViTs for CIFAR cut the image by reshaping, channels last.
    x = images(*IMAGES)
    truth, grad_z, conv = convolution(x)
    cut = x.unflatten(2, (-1, P)).unflatten(4, (-1, P)).permute(0, 2, 4, 1, 3, 5)
    entries = (0, 1, 2, 3)
    if order == "row, column, channel":
        cut, entries = cut.permute(0, 1, 2, 4, 5, 3), (0, 2, 3, 1)
    rows = cut.flatten(3).flatten(1, 2)
    weight = conv.weight.permute(entries).flatten(1)
    gradient = gradient_of_linear(weight, rows, tokens(grad_z))
    assert relative_error(gradient, truth.permute(entries).flatten(1)) < ORACLE_RTOL


@pytest.mark.parametrize("kernel", [1, 3])
def test_space_to_depth_is_the_convolution(kernel: int) -> None:
    # A k x k convolution after blocks of 2 x 2 is a 2k x 2k one with stride 2.
    x = images(*IMAGES)
    settings = {"kernel_size": 2 * kernel, "stride": 2, "padding": kernel - 1}
    truth, grad_z, conv = convolution(x, **settings)

    def blocks(weight: Tensor) -> Tensor:
        return F.pixel_unshuffle(weight, 2)

    after = nn.Conv2d(4 * C, OUT, kernel, padding=kernel // 2).double()
    with torch.no_grad():
        after.weight.copy_(blocks(conv.weight))
    model = trainact.apply(nn.Sequential(nn.PixelUnshuffle(2), after))
    model(x).backward(grad_z)
    assert relative_error(after.weight.grad, blocks(truth)) < ORACLE_RTOL


def test_packed_sequences_are_the_convolution_of_every_image() -> None:
    # NaViT: patches of images of any size one after the other. Rows of one batch.
    batch = [images(1, C, 8, 8), 2 * images(1, C, 4, 12), images(1, C, 4, 4) + 1]
    rows = torch.cat([F.unfold(x, P, stride=P).mT for x in batch], dim=1)
    weight, grad_z = images(OUT, C * P * P), images(1, rows.shape[1], OUT)
    gradient = gradient_of_linear(weight, rows, grad_z)
    # All images side by side in one strip are one convolution.
    strip = torch.cat([row.view(1, C, P, P) for row in rows[0]], dim=3)
    conv = trainact.TrAct(nn.Conv2d(C, OUT, P, stride=P).double())
    conv(strip).backward(grad_z.mT[:, :, None])
    assert relative_error(gradient, conv.weight.grad.flatten(1)) < ORACLE_RTOL


def test_visible_patches_are_the_rows() -> None:
    # MAE that drops patches before the embedding: what is dropped does not count.
    x = images(*IMAGES)
    rows = F.unfold(x, P, stride=P).mT
    keep = torch.stack([torch.randperm(rows.shape[1])[:2] for _ in rows])
    visible = rows.gather(1, keep[..., None].expand(-1, -1, rows.shape[2]))
    weight, grad_z = images(OUT, C * P * P), images(2, 2, OUT)
    gradient = gradient_of_linear(weight, visible, grad_z)
    picked = np.concatenate([r[k] for r, k in zip(rows, keep, strict=True)])
    truth = reference.tract_gradient(grad_z.flatten(0, 1).numpy(), picked, 0.1)
    assert relative_error(gradient, truth) < ORACLE_RTOL


@pytest.mark.parametrize("in_chans", [1, 3, 5])
@pytest.mark.parametrize("bias", [False, True])
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
    for arguments in ((images(*IMAGES),), (patches, coordinates)):
        check_stem(embed, arguments, embed.proj)


def check_stem(model: nn.Module, arguments: tuple[Tensor, ...], stem: nn.Module):
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
    truth = oracle_gradient(stem, *seen, 0.1)
    assert relative_error(stem.weight.grad, truth) < ORACLE_RTOL


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
