"""Whole timm models whose stem is of a class of its own take a step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import trainact
from tests.odd import OddCase, standardised
from tests.tolerances import ORACLE_RTOL, relative_error

SAME = OddCase("conv", (), pads=True)
STANDARDISED = OddCase("conv", (), effective=standardised)
SAME_AND_STANDARDISED = OddCase("conv", (), effective=standardised, pads=True)


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
    ("tf_efficientnet_b0", "conv_stem", "Conv2dSame", SAME, {}),
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
def test_a_step(
    name: str, layer: str, kind: str, case: OddCase, settings: dict[str, int]
) -> None:
    model = create(name, num_classes=4, **settings)
    stem = model.get_submodule(layer)
    assert type(stem).__name__ == kind
    trainact.apply(model)
    assert list(trainact.tract_layers(model)) == [layer]
    model.double()
    # An odd size, so that TensorFlow's padding is not the same on all sides.
    size = settings.get("img_size", 67)
    x = torch.randn(2, settings.get("in_chans", 3), size, size, dtype=torch.float64)
    seen: list[Tensor] = []

    def watch(_module: nn.Module, inputs: tuple[Tensor, ...], z: Tensor) -> None:
        seen.append(inputs[0])
        z.register_hook(seen.append)

    stem.register_forward_hook(watch)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    nn.functional.cross_entropy(model(x), torch.tensor([0, 3])).backward()
    for key, truth in case.gradients(stem, *seen).items():
        assert relative_error(stem.get_parameter(key).grad, truth) < ORACLE_RTOL
    before = stem.weight.detach().clone()
    optimizer.step()
    torch.testing.assert_close(stem.weight.detach(), before - 0.1 * stem.weight.grad)
    trainact.remove(model)
    assert type(stem).__name__ == kind
