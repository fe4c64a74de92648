"""The CIFAR-100 networks up to Xception: sizes, stems, and the reference's outputs."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import trainact
from trainact.lab.models.cifar import (
    densenet,
    googlenet,
    mobilenet,
    mobilenetv2,
    shufflenet,
    shufflenetv2,
    squeezenet,
    vgg,
    xception,
)

FAMILIES = (
    squeezenet,
    mobilenet,
    mobilenetv2,
    shufflenet,
    shufflenetv2,
    vgg,
    densenet,
    googlenet,
    xception,
)
MODELS = {name: build for file in FAMILIES for name, build in file.MODELS.items()}


class Network(NamedTuple):
    """`first` to `size` are of the first convolution, its output is size x size.

    `logit` is that of class 0 in the reference repository's own network, in evaluation
    mode, after `fill`; our network repeated it to the last bit of float64, as it did
    the gradients of all parameters in training mode.
    """

    name: str
    parameters: int
    first: str
    kernel: int
    stride: int
    padding: int
    channels: int
    bias: bool
    size: int
    logit: float


NETWORKS = (
    Network("squeezenet", 781_156, "stem.0", 3, 1, 1, 96, True, 32, -0.6458646),
    Network("mobilenet", 3_315_428, "stem.0.conv", 3, 1, 1, 32, False, 32, -0.15575078),
    Network("mobilenetv2", 2_369_380, "pre.0", 1, 1, 1, 32, True, 34, -0.020677767),
    Network("shufflenet", 1_012_108, "conv1.conv", 3, 1, 1, 24, True, 32, -5.7851953),
    Network("shufflenetv2", 1_360_896, "pre.0", 3, 1, 1, 24, True, 32, -0.11287467),
    Network("vgg11", 28_518_244, "features.0", 3, 1, 1, 64, True, 32, 0.044064912),
    Network("vgg13", 28_703_140, "features.0", 3, 1, 1, 64, True, 32, 0.066792929),
    Network("vgg16", 34_015_396, "features.0", 3, 1, 1, 64, True, 32, -0.41167444),
    Network("vgg19", 39_327_652, "features.0", 3, 1, 1, 64, True, 32, 0.015012812),
    Network("densenet121", 7_048_548, "conv1", 3, 1, 1, 64, False, 32, -0.52273675),
    Network("densenet161", 26_681_188, "conv1", 3, 1, 1, 96, False, 32, 0.64909678),
    Network("densenet201", 18_277_220, "conv1", 3, 1, 1, 64, False, 32, -0.44293747),
    Network("googlenet", 6_402_564, "prelayer.0", 3, 1, 1, 64, False, 32, -0.51265522),
    Network(
        "xception", 21_013_988, "entry_flow.conv1.0", 3, 1, 1, 32, False, 32, 0.61500907
    ),
)
every_network = pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.name)

DROPOUTS = {
    **{f"vgg{depth}": [0.5, 0.5] for depth in (11, 13, 16, 19)},
    "googlenet": [0.4],
}


def build_meta(network: Network) -> nn.Module:
    with torch.device("meta"):
        return MODELS[network.name](100)


def fill(tensors: dict[str, Tensor]) -> None:
    """Parameters and statistics that make every part of a network matter."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        draws = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
        if tensor.ndim > 1:
            tensor.copy_((draws - 0.5) * (12 / tensor[0].numel()) ** 0.5)
        elif name.endswith(("weight", "running_var")):
            tensor.copy_(draws + 0.5)
        else:
            tensor.copy_(draws - 0.5)


def test_every_network_is_in_the_table() -> None:
    assert sorted(MODELS) == sorted(network.name for network in NETWORKS)


@every_network
def test_the_number_of_parameters_is_the_papers(network: Network) -> None:
    parameters = build_meta(network).parameters()
    assert sum(p.numel() for p in parameters) == network.parameters


@every_network
def test_tract_finds_the_first_convolution(network: Network) -> None:
    [(name, conv)] = trainact.first_layers(build_meta(network)).items()
    assert isinstance(conv, nn.Conv2d)
    assert name == network.first
    assert conv.kernel_size == (network.kernel,) * 2
    assert conv.stride == (network.stride,) * 2
    assert conv.padding == (network.padding,) * 2
    assert (conv.in_channels, conv.out_channels) == (3, network.channels)
    assert (conv.bias is not None) == network.bias
    assert conv.weight[0].numel() == (3 if network.name == "mobilenetv2" else 27)
    images = torch.empty(1, 3, 32, 32, device="meta")
    assert conv(images).shape[2:] == (network.size,) * 2


@every_network
def test_the_output_is_that_of_the_reference_network(network: Network) -> None:
    model = build_meta(network).double().to_empty(device="cpu").eval()
    fill(model.state_dict())
    images = torch.linspace(-1, 1, 3 * 32 * 32, dtype=torch.float64).cos()
    with torch.no_grad():
        logits = model(images.view(1, 3, 32, 32))
    assert logits[0, 0].item() == pytest.approx(network.logit, rel=1e-6)


@every_network
def test_dropout_is_where_the_reference_has_it(network: Network) -> None:
    modules = build_meta(network).modules()
    rates = [module.p for module in modules if isinstance(module, nn.Dropout)]
    assert rates == DROPOUTS.get(network.name, [])


@pytest.mark.parametrize("name", [next(iter(file.MODELS)) for file in FAMILIES])
def test_weights_are_drawn_as_torch_does_by_default(name: str) -> None:
    for module in MODELS[name](100).modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = module.weight[0].numel() ** -0.5
            largest = module.weight.abs().max().item()
            assert 0.9 * bound < largest <= bound * (1 + 1e-6)


@every_network
def test_a_training_step_reaches_every_parameter(network: Network) -> None:
    model = trainact.apply(MODELS[network.name](100))
    logits = model(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 100)
    assert logits.isfinite().all()
    logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
