"""`apply`, `remove`, `first_layers`, `split_parameters` on models."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import trainact


class PatchEmbed(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Conv2d(3, 8, 4, stride=4)


class ViT(nn.Module):
    """The first layer is not the first parameter, but has a stem's name."""

    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(8))
        self.patch_embed = PatchEmbed()
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.patch_embed.proj(x).mean((2, 3)) + self.cls_token)


class Reversed(nn.Module):
    """Registration order is not execution order, and no name helps."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 2)
        self.body = nn.Conv2d(8, 8, 3)
        self.entry = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        x = F.pad((x - 0.5) / 0.25, (1, 1, 1, 1))
        return self.head(self.body(self.entry(x).relu()).mean((2, 3)))


class TwoStreams(nn.Module):
    """Two inputs, two first layers; a third layer sees both streams later."""

    def __init__(self):
        super().__init__()
        self.colour = nn.Conv2d(3, 4, 3)
        self.depth = nn.Conv2d(1, 4, 3)
        self.join = nn.Conv2d(8, 2, 1)

    def forward(self, colour, depth):
        return self.join(torch.cat([self.colour(colour), self.depth(depth)], 1))


class OptionalDepth(TwoStreams):
    """Whether there is a second stem depends on what it is given."""

    def forward(self, colour, depth=None):
        depth = colour[:, :1] * 0 if depth is None else self.depth(depth)
        return self.colour(colour) + depth.mean()


class NormFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.conv1 = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv1(self.norm(x))


IMAGE = torch.zeros(1, 3, 16, 16)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.Linear(2, 2)), "1"),
        (nn.Sequential(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 2, 1))), "0.1"),
        (nn.Linear(4, 2), ""),
        (ViT(), "patch_embed.proj"),
    ],
)
def test_structure_tells(model, name) -> None:
    (found,) = trainact.first_layers(model).items()
    assert found == (name, model.get_submodule(name))
    trainact.apply(model, lam=0.2)
    assert list(trainact.tract_layers(model)) == [name]
    assert model.get_submodule(name).lam == 0.2


@pytest.mark.parametrize(
    ("build", "name"),
    [
        ("resnet18", "conv1"),
        ("vgg11", "features.0"),
        ("densenet121", "features.conv0"),
        ("mobilenet_v2", "features.0.0"),
        ("squeezenet1_0", "features.0"),
        ("vit_b_32", "conv_proj"),
        ("swin_t", "features.0.0"),
        ("convnext_tiny", "features.0.0"),
    ],
)
def test_torchvision_names(build: str, name: str) -> None:
    models = pytest.importorskip("torchvision").models
    with torch.device("meta"):
        model = getattr(models, build)(weights=None)
    assert list(trainact.first_layers(model)) == [name]


@pytest.mark.parametrize(
    ("build", "name"),
    [
        ("resnet18", "conv1"),
        ("vit_tiny_patch16_224", "patch_embed.proj"),
        ("efficientnet_b0", "conv_stem"),
        ("convnext_atto", "stem.0"),
        ("mixer_s32_224", "stem.proj"),
    ],
)
def test_timm_names(build: str, name: str) -> None:
    model = pytest.importorskip("timm").create_model(build)
    assert list(trainact.first_layers(model)) == [name]


def test_an_unclear_model_is_refused_with_candidates() -> None:
    message = (
        r"name it with layer='\.\.\.', or pass example_input=\. Candidates, in order: "
        r"'colour' \(Conv2d\), 'depth' \(Conv2d\), 'join' \(Conv2d\)\."
    )
    with pytest.raises(ValueError, match=message):
        trainact.apply(OptionalDepth())


def test_the_example_is_followed() -> None:
    model = Reversed().train()
    assert list(trainact.first_layers(model, IMAGE)) == ["entry"]
    assert model.training
    trainact.apply(model, example_input=IMAGE)
    assert list(trainact.tract_layers(model)) == ["entry"]


@pytest.mark.parametrize("as_dict", [False, True])
def test_the_example_reaches_every_stream(as_dict: bool) -> None:
    inputs = {"colour": IMAGE, "depth": IMAGE[:, :1]}
    example = inputs if as_dict else tuple(inputs.values())
    model = trainact.apply(TwoStreams(), example_input=example)
    assert list(trainact.tract_layers(model)) == ["colour", "depth"]


def test_a_parametrised_norm_in_front_is_reported() -> None:
    with pytest.raises(ValueError, match="layer 'norm' is a BatchNorm2d: TrAct trains"):
        trainact.apply(NormFirst(), example_input=IMAGE)
    with pytest.raises(ValueError, match="layer 'norm' is a BatchNorm2d: TrAct trains"):
        trainact.apply(NormFirst())


def test_layers_can_be_named() -> None:
    for choice in ("body", ["body"], None):
        model = Reversed()
        trainact.apply(model, layer=model.body if choice is None else choice)
        assert list(trainact.tract_layers(model)) == ["body"]
    model = trainact.apply(TwoStreams(), layer=["colour", "depth"])
    assert list(trainact.tract_layers(model)) == ["colour", "depth"]


def test_a_shared_layer_has_two_names() -> None:
    model = Reversed()
    model.alias = model.body
    for choice in ("alias", ["body", "alias"]):
        assert list(trainact.tract_layers(trainact.apply(model, layer=choice))) == [
            "body"
        ]
        trainact.remove(model)


class Scaled(nn.Linear):
    def __init__(self, inputs, outputs, *, scale=2.0):
        super().__init__(inputs, outputs)
        self.scale = scale

    def forward(self, x):
        return F.linear(x, self.weight * self.scale, self.bias)


@pytest.mark.parametrize(
    ("layer", "settings"),
    [
        (nn.Linear(4, 2), {"in_features": 4, "out_features": 2, "bias": False}),
        (nn.Conv1d(3, 4, 3), {"in_channels": 3, "out_channels": 4, "kernel_size": 3}),
        (nn.Conv3d(3, 4, 3), {"in_channels": 3, "out_channels": 4, "kernel_size": 3}),
        (Scaled(4, 2), {"inputs": 4, "outputs": 2, "scale": 3.0}),
    ],
)
def test_another_layer_of_its_type_is_a_plain_one(layer, settings) -> None:
    # Only TrAct and apply put TrAct on a layer, not a library that makes its like.
    plain = type(layer)
    kind = type(trainact.TrAct(layer))
    assert inspect.signature(kind) == inspect.signature(plain)
    made = kind(**settings)
    assert type(made) is plain
    assert repr(made) == repr(plain(**settings))
    assert type(trainact.TrAct(made)) is kind
    assert trainact.tract_layers(copy.deepcopy(made))


def test_a_class_derived_from_a_layer_under_tract() -> None:
    class Derived(trainact.TrActLinear):
        def __init__(self):
            super().__init__(4, 2)

    layer, plain, x = Derived(), nn.Linear(4, 2), torch.randn(9, 4)
    plain.load_state_dict(layer.state_dict())
    trainact.TrAct(plain)
    for module in (layer, plain):
        module(x).square().sum().backward()
    assert layer.lam == 0.1
    assert torch.equal(layer.weight.grad, plain.weight.grad)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("entrance", "no layer 'entrance'. Did you mean 'entry'"),
        ("nowhere", "no layer 'nowhere'. Candidates, in order"),
        ([], "layer= names no layer. Candidates"),
        (nn.Linear(2, 2), "the given Linear is not part of the model"),
        ("", "the layer is a Reversed: TrAct trains"),
    ],
)
def test_a_wrong_name_is_refused(choice, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainact.apply(Reversed(), layer=choice)


def test_a_refusal_changes_nothing() -> None:
    model = NormFirst()
    with pytest.raises(ValueError, match="BatchNorm2d"):
        trainact.apply(model, layer=["conv1", "norm"])
    assert trainact.tract_layers(model) == {}
    assert type(model.conv1) is nn.Conv2d


def test_applying_twice_is_refused() -> None:
    model = trainact.apply(ViT())
    with pytest.raises(
        ValueError, match=r"'patch_embed\.proj' is a TrActConv2d already"
    ):
        trainact.apply(model)


@pytest.mark.parametrize("model", [nn.ReLU(), nn.Sequential()])
def test_models_without_parameters(model) -> None:
    with pytest.raises(ValueError, match="the model has no parameters"):
        trainact.apply(model)


def test_remove_gives_the_model_back() -> None:
    model = ViT()
    weights = copy.deepcopy(model.state_dict())
    printed = repr(model)
    assert trainact.remove(trainact.apply(model)) is model
    assert repr(model) == printed
    for key, value in model.state_dict().items():
        assert torch.equal(value, weights[key])
    assert trainact.remove(model) is model


def test_parameters_split_for_two_optimizers() -> None:
    model = trainact.apply(ViT())
    first, rest = trainact.split_parameters(model)
    assert [id(p) for p in first] == [id(p) for p in model.patch_embed.parameters()]
    assert len(first) + len(rest) == len(list(model.parameters()))
    optimizers = [torch.optim.SGD(first, lr=0.1), torch.optim.Adam(rest, lr=0.01)]
    before = copy.deepcopy(model.state_dict())
    model(torch.randn(4, 3, 16, 16)).square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    for key, value in model.state_dict().items():
        assert not torch.equal(value, before[key]), key
    sgd = before["patch_embed.proj.weight"] - 0.1 * model.patch_embed.proj.weight.grad
    torch.testing.assert_close(model.patch_embed.proj.weight.detach(), sgd)


def test_splitting_a_plain_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"call trainact\.apply\(model\) first"):
        trainact.split_parameters(ViT())


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3),
        lambda p: torch.optim.Adam(p, lr=1e-2),
        lambda p: torch.optim.AdamW(p, lr=1e-2),
        lambda p: torch.optim.RMSprop(p, lr=1e-3),
        lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
    ],
    ids=["SGD", "Adam", "AdamW", "RMSprop", "LBFGS"],
)
def test_any_optimizer_lowers_the_loss(make) -> None:
    model = trainact.apply(
        nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1))
    )
    optimizer = make(model.parameters())
    x = torch.randn(64, 16)
    y = x[:, :1] * x[:, 1:2]
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        losses.append(loss.item())
        return loss.detach()

    for _ in range(60):
        optimizer.step(closure)
    assert losses[-1] < 0.7 * losses[0]
