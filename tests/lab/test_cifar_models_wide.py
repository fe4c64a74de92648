"""Inception, NASNet, wide and stochastic-depth networks for CIFAR-100."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import trainact
from tests.tolerances import ORACLE_RTOL
from trainact.lab.models.cifar import (
    inception_resnet_v2,
    inception_v3,
    inception_v4,
    nasnet,
    stochastic_depth,
    wideresnet,
)
from trainact.lab.models.cifar.stochastic_depth import StochasticBlock

MODELS = {
    **inception_v3.MODELS,
    **inception_v4.MODELS,
    **inception_resnet_v2.MODELS,
    **nasnet.MODELS,
    **wideresnet.MODELS,
    **stochastic_depth.MODELS,
}

# name: parameters at 100 classes; the first convolution's name, padding, output
# channels and bias (all have 3x3 kernels and stride 1); side of its output
NETWORKS = {
    "inceptionv3": (22_318_148, "Conv2d_1a_3x3.conv", 1, 32, False, 32),
    "inceptionv4": (41_296_516, "stem.conv1.0.conv", 0, 32, False, 30),
    "inceptionresnetv2": (65_442_072, "stem.conv1.0.conv", 0, 32, False, 30),
    "nasnet": (5_221_624, "stem.0", 1, 44, False, 32),
    "wideresnet": (55_914_020, "init_conv", 1, 16, True, 32),
    "stochasticdepth18": (11_224_932, "conv1.0", 1, 64, True, 32),
    "stochasticdepth34": (21_336_804, "conv1.0", 1, 64, True, 32),
    "stochasticdepth50": (23_705_316, "conv1.0", 1, 64, True, 32),
    "stochasticdepth101": (42_697_444, "conv1.0", 1, 64, True, 32),
}
# name: channels and side of the maps that are pooled in the end, the dropouts
ENDS = {
    "inceptionv3": (2048, 6, [0.5]),
    "inceptionv4": (1536, 7, [0.2]),
    "inceptionresnetv2": (2048, 6, [0.2]),
    "nasnet": (1056, 8, []),
    "wideresnet": (640, 8, 18 * [0.5]),
    "stochasticdepth18": (512, 4, []),
    "stochasticdepth34": (512, 4, []),
    "stochasticdepth50": (2048, 4, []),
    "stochasticdepth101": (2048, 4, []),
}
NUM_BLOCKS = {
    "stochasticdepth18": 8,
    "stochasticdepth34": 16,
    "stochasticdepth50": 16,
    "stochasticdepth101": 33,
}


def build_meta(name: str, num_classes: int = 100) -> nn.Module:
    with torch.device("meta"):
        return MODELS[name](num_classes)


def stochastic_blocks(model: nn.Module) -> list[StochasticBlock]:
    return [m for m in model.modules() if isinstance(m, StochasticBlock)]


def test_the_tables_are_complete() -> None:
    assert set(MODELS) == set(NETWORKS) == set(ENDS)


@pytest.mark.parametrize("name", NETWORKS)
def test_size_and_first_layer(name: str) -> None:
    parameters, stem, padding, out_channels, bias, side = NETWORKS[name]
    model = build_meta(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    ((found, layer),) = trainact.first_layers(model).items()
    assert found == stem
    assert isinstance(layer, nn.Conv2d)
    assert (layer.kernel_size, layer.stride) == ((3, 3), (1, 1))
    assert (layer.padding, layer.dilation, layer.groups) == (2 * (padding,), (1, 1), 1)
    assert (layer.out_channels, layer.bias is not None) == (out_channels, bias)
    assert layer.weight[0].numel() == 27
    images = torch.empty(2, 3, 32, 32, device="meta")
    assert layer(images).shape == (2, out_channels, side, side)


@pytest.mark.parametrize("name", ENDS)
def test_classes_and_dropouts(name: str) -> None:
    modules = list(build_meta(name, num_classes=10).modules())
    assert [m.out_features for m in modules if isinstance(m, nn.Linear)] == [10]
    assert [m.p for m in modules if isinstance(m, nn.Dropout)] == ENDS[name][2]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step(name: str) -> None:
    model = trainact.apply(MODELS[name](100))
    for block in stochastic_blocks(model):
        block.survival = 1.0
    (pooling,) = (m for m in model.modules() if isinstance(m, nn.AdaptiveAvgPool2d))
    pooled: list[torch.Size] = []
    pooling.register_forward_pre_hook(lambda _, args: pooled.append(args[0].shape))

    logits = model(torch.randn(2, 3, 32, 32))
    channels, side, _ = ENDS[name]
    assert pooled == [(2, channels, side, side)]
    assert logits.shape == (2, 100)
    assert logits.isfinite().all()

    F.cross_entropy(logits, torch.tensor([3, 98])).backward()
    for key, parameter in model.named_parameters():
        if ".unused." in key:
            assert name == "nasnet"
            assert parameter.grad is None
        else:
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key


def test_inception_resnet_scales_its_residuals() -> None:
    blocks = [
        module
        for module in build_meta("inceptionresnetv2").modules()
        if isinstance(module, inception_resnet_v2.ResidualBlock)
    ]
    assert [block.scale for block in blocks] == 5 * [1.0] + 15 * [0.1]
    with torch.no_grad():
        block = inception_resnet_v2.ResidualBlock(3, 3, nn.Identity(), 3, 0.1).eval()
        features = torch.randn(2, 3, 4, 4)
        total = 0.1 * block.project(features) + block.shortcut(features)
        assert torch.equal(block(features), block.norm(total).relu())


def test_nasnet_halves_by_even_and_odd_pixels() -> None:
    fit = nasnet.Fit(1, 2, "halve").eval()
    with torch.no_grad():
        for conv in (m for m in fit.fit.modules() if isinstance(m, nn.Conv2d)):
            conv.weight.fill_(1)
            assert conv.bias is not None
            conv.bias.zero_()
        pixels = torch.arange(-8.0, 8.0).reshape(1, 1, 4, 4)
        even, odd = fit(pixels).unbind(1)
    scale = (1 + 1e-5) ** -0.5  # of a batch norm that has seen nothing yet
    positive = pixels[0].relu()
    torch.testing.assert_close(even, scale * positive[:, ::2, ::2])
    torch.testing.assert_close(odd, scale * positive[:, 1::2, 1::2])


@pytest.mark.parametrize("name", NUM_BLOCKS)
def test_survival_falls_linearly_from_one_to_a_half(name: str) -> None:
    survivals = [block.survival for block in stochastic_blocks(build_meta(name))]
    number = NUM_BLOCKS[name]
    assert survivals == pytest.approx(torch.linspace(1, 0.5, number).tolist())
    assert (survivals[0], survivals[-1]) == (1, 0.5)


def test_one_draw_per_block_and_batch() -> None:
    """The draws come from torch's global generator, one by one, in order."""
    model = build_small()
    blocks = stochastic_blocks(model)
    torch.manual_seed(5)
    expected = [bool(torch.bernoulli(torch.tensor(b.survival))) for b in blocks]
    state = torch.get_rng_state()
    assert True in expected
    assert False in expected

    images = torch.zeros(5, 3, 32, 32)
    for _ in range(2):
        model.apply(reset_statistics)
        torch.manual_seed(5)
        model(images)
        assert torch.equal(torch.get_rng_state(), state)
        assert [num_batches(block.branch) for block in blocks] == expected


def test_frequency_of_survival() -> None:
    torch.manual_seed(0)
    block = StochasticBlock(nn.Identity(), None, survival=0.7)
    one = torch.ones(1)
    kept = sum(block(one).item() - 1 for _ in range(2000)) / 2000
    deviation = (0.7 * 0.3 / 2000) ** 0.5
    assert abs(kept - 0.7) < 4 * deviation


@pytest.mark.parametrize("survival", [0.0, 0.5, 1.0])
def test_evaluation_takes_the_expectation(survival: float) -> None:
    branch = nn.Conv2d(3, 3, 1, dtype=torch.float64)
    shortcut = nn.Conv2d(3, 3, 1, dtype=torch.float64)
    block = StochasticBlock(branch, shortcut, survival).eval()
    features = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    state = torch.get_rng_state()
    expected = survival * branch(features) + shortcut(features)
    assert (expected < 0).any()  # which a ReLU behind the sum would remove
    torch.testing.assert_close(block(features), expected, rtol=ORACLE_RTOL, atol=0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("survival", [0.0, 1.0])
def test_training_does_not_rescale(survival: float) -> None:
    branch = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    block = StochasticBlock(branch, None, survival)
    features = torch.randn(2, 3, 4, 4)
    expected = features + branch(features) if survival else features
    assert (expected < 0).any()
    branch.apply(reset_statistics)
    assert torch.equal(block(features), expected)
    assert num_batches(branch) == survival


def test_no_relu_behind_the_blocks() -> None:
    model = build_small().eval()
    outputs: list[Tensor] = []
    for block in stochastic_blocks(model):
        block.register_forward_hook(lambda *args: outputs.append(args[2]))
    model(torch.randn(1, 3, 32, 32))
    assert len(outputs) == 8
    assert all((output < 0).any() for output in outputs)


def build_small() -> nn.Module:
    return MODELS["stochasticdepth18"](10)


def reset_statistics(module: nn.Module) -> None:
    if isinstance(module, nn.BatchNorm2d):
        module.reset_running_stats()


def num_batches(branch: nn.Module) -> int:
    """Batches that every batch norm of a branch has seen."""
    (number,) = {
        int(module.num_batches_tracked)
        for module in branch.modules()
        if isinstance(module, nn.BatchNorm2d) and module.num_batches_tracked is not None
    }
    return number
