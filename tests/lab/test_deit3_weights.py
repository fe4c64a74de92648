"""A network takes the weights of its like for other images and other classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

import trainact
from trainact.lab.errors import LabError
from trainact.lab.models import build_model
from trainact.lab.models.deit3 import build
from trainact.lab.models.weights import load_weights

HEAD = ("head.weight", "head.bias")


def network(side: int = 24, classes: int = 7, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return build("tiny-patch8", (3, side, side), classes)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def check_same(found: dict[str, Tensor], wanted: dict[str, Tensor], *but: str) -> None:
    assert found.keys() == wanted.keys()
    for name in found.keys() - set(but):
        assert torch.equal(found[name], wanted[name]), name


def test_the_same_network() -> None:
    source, model = network(), network(seed=1)
    assert load_weights(model, source.state_dict()) == ()
    check_same(state(model), state(source))


@pytest.mark.parametrize(("old", "new"), [(24, 32), (32, 24), (96, 112)])
def test_positions_of_another_image_size(old: int, new: int) -> None:
    source, model = network(old), network(new, seed=1)
    before = state(source)
    assert load_weights(model, source.state_dict()) == ()
    check_same(state(model), before, "pos_embed")
    check_same(state(source), before)
    grid = before["pos_embed"].unflatten(1, (old // 8, old // 8)).permute(0, 3, 1, 2)
    wanted = interpolate(
        grid, size=(new // 8, new // 8), mode="bicubic", align_corners=False
    )
    torch.testing.assert_close(model.pos_embed.data, wanted.flatten(2).mT)


def test_positions_keep_their_places() -> None:
    """A ramp from left to right stays one, also in an image that is not square."""
    source = network(64)
    torch.manual_seed(1)
    model: Any = build("tiny-patch8", (3, 64, 128), 7)
    columns_8 = torch.arange(8.0)
    with torch.no_grad():
        source.pos_embed.copy_(columns_8.repeat(8).view(1, 64, 1).expand(1, 64, 192))
    load_weights(model, source.state_dict())
    rows_816 = model.pos_embed.data[0, :, 5].view(8, 16)
    torch.testing.assert_close(rows_816, rows_816[:1].expand(8, 16))
    inner, wanted = rows_816[0, 4:12], (torch.arange(4.0, 12.0) + 0.5) / 2 - 0.5
    # torch's cubic waves a little around a line.
    torch.testing.assert_close(inner, wanted, atol=0.05, rtol=0)


def test_another_number_of_classes() -> None:
    source, model = network(), network(classes=3, seed=1)
    before = state(model)
    assert load_weights(model, source.state_dict()) == HEAD
    check_same(state(model), state(source), *HEAD)
    for name in HEAD:
        assert torch.equal(model.state_dict()[name], before[name])


def test_both_at_once_and_with_tract() -> None:
    source, model = network(32), network(24, classes=3, seed=1)
    model = trainact.apply(model, layer="patch_embed.proj")
    assert load_weights(model, source.state_dict()) == HEAD
    check_same(state(model), state(source), "pos_embed", *HEAD)


@pytest.mark.parametrize("name", ["small-cnn", "mlp", "torchvision:resnet18"])
def test_any_network_for_other_classes(name: str) -> None:
    source = build_model(name, (3, 32, 32), 7)
    model = build_model(name, (3, 32, 32), 3)
    kept = load_weights(model, source.state_dict())
    assert len(kept) == 2
    check_same(state(model), state(source), *kept)


def refusal(model: nn.Module, weights: dict[str, Tensor]) -> str:
    before = state(model)
    with pytest.raises(LabError) as caught:
        load_weights(model, weights)
    check_same(state(model), before)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_width() -> None:
    with torch.device("meta"):
        other = build("small", (3, 224, 224), 7)
    message = refusal(network(), other.state_dict())
    assert "cls_token has the shape 1 x 1 x 384 in them and 1 x 1 x 192" in message
    assert "others)" in message


def test_other_names() -> None:
    source = state(network())
    source["blocks.0.gamma_1"] = source.pop("blocks.0.ls1.gamma")
    message = refusal(network(), source)
    assert "blocks.0.ls1.gamma is not in them" in message
    assert "blocks.0.gamma_1 is not in the model" in message
    message = refusal(network(), build_model("mlp", (3, 24, 24), 7).state_dict())
    assert "cls_token is not in them (and " in message


def test_a_hidden_layer_of_another_size_is_not_left_out() -> None:
    def perceptron(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))

    message = refusal(perceptron(5), perceptron(6).state_dict())
    assert "0.weight has the shape 6 x 4 in them and 5 x 4 in the model" in message


def test_other_inputs_and_several_last_layers_are_not_left_out() -> None:
    message = refusal(nn.Linear(4, 2), nn.Linear(5, 2).state_dict())
    assert "weight has the shape 2 x 5 in them and 2 x 4 in the model" in message
    one, other = (
        nn.ModuleList([nn.Linear(4, classes), nn.Linear(4, 4 * classes)])
        for classes in (2, 3)
    )
    assert "0.weight has the shape 3 x 4" in refusal(one, other.state_dict())


def test_positions_of_an_image_that_was_not_square() -> None:
    with torch.device("meta"):
        source = build("tiny-patch8", (3, 16, 24), 7)
    assert "positions of 6 patches" in refusal(network(), source.state_dict())
