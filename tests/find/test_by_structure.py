"""What the structure tells without a forward pass, and where it must doubt."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import trainact
from trainact.find.by_structure import read_structure


class Network(nn.Module):
    """Layers in a given order of registration; calling it is an error."""

    def __init__(self, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, _):
        raise AssertionError("the forward pass was run")


def conv(taken: int, out: int, size: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(taken, out, size, **options)


def block(taken: int, out: int) -> nn.Module:
    return Network(
        conv1=conv(taken, out, 1), norm=nn.BatchNorm2d(out), conv2=conv(out, out),
        squeeze=conv(out, 4, 1), excite=conv(4, out, 1),
    )  # fmt: skip


CERTAIN = {
    "residual network": Network(
        stem=conv(3, 64), norm=nn.BatchNorm2d(64), layer1=block(64, 64),
        down=conv(64, 128, 1), layer2=block(128, 128), fc=nn.Linear(128 * 49, 10),
    ),
    "grey images": Network(stem=conv(1, 32), body=conv(32, 64), fc=nn.Linear(9216, 10)),
    "many channels": Network(stem=conv(200, 64), body=conv(64, 32)),
    "volumes": Network(stem=nn.Conv3d(1, 8, 3), body=nn.Conv3d(8, 16, 3)),
    "signals": Network(stem=nn.Conv1d(2, 64, 7), body=nn.Conv1d(64, 64, 3)),
    "perceptron": Network(
        enter=nn.Linear(784, 512), norm=nn.LayerNorm(512), leave=nn.Linear(512, 10)
    ),
    "encoder and decoder": Network(
        down1=conv(3, 32), down2=conv(32, 64), up=nn.ConvTranspose2d(64, 32, 2),
        join=conv(64, 32), out=conv(32, 3, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CERTAIN)
def test_certain_without_a_forward_pass(name: str) -> None:
    model = CERTAIN[name]
    first = next(iter(model._modules))
    assert list(trainact.first_layers(model)) == [first]


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        (lambda m: nn.Sequential(nn.Identity(), m, nn.Linear(10, 2)), "1."),
        (lambda m: nn.Sequential(nn.Sequential(m), nn.ReLU()), "0.0."),
        (nn.DataParallel, "module."),
        (torch.compile, "_orig_mod."),
        (lambda m: Network(model=m, loss=nn.CrossEntropyLoss()), "model."),
        (lambda m: Network(backbone=m, head=nn.Linear(10, 2)), "backbone."),
    ],
    ids=["normalised", "nested", "parallel", "compiled", "trainer", "backbone"],
)
def test_wrappers(wrap, prefix: str) -> None:
    model = wrap(CERTAIN["residual network"])
    assert list(trainact.first_layers(model)) == [f"{prefix}stem"]


def with_class_token() -> nn.Module:
    model = Network(embed=conv(3, 192, 16), block=nn.Linear(192, 576))
    model.token = nn.Parameter(torch.zeros(1, 1, 192))
    return model


def test_a_class_token_is_no_doubt() -> None:
    assert list(trainact.first_layers(with_class_token())) == ["embed"]


def with_scale() -> nn.Module:
    model = Network(stem=conv(3, 8))
    model.body = conv(8, 8)
    model.scale = nn.Parameter(torch.ones(3, 1, 1))
    return model


def with_metadata() -> nn.Module:
    model = Network(stem=conv(3, 8), body=conv(8, 8))
    model.pretrained_cfg = {"first_conv": "body"}
    return model


# The names of what is in the way are what a user needs.
DOUBTFUL = {
    "registered in reverse": (
        Network(head=nn.Linear(8, 2), body=conv(8, 8), entry=conv(3, 8)),
        "'entry' could take the raw input",
    ),
    "decoder registered first": (
        Network(out1=conv(64, 32), out2=conv(32, 3), in1=conv(3, 32), in2=conv(32, 64)),
        "'in1' could take the raw input",
    ),
    "head of an embedding": (
        Network(head=nn.Linear(64, 10), words=nn.Embedding(100, 64)),
        "'head' .* could take the output of 'words'",
    ),
    "head of a perceptron": (
        Network(head=nn.Linear(64, 10), body=nn.Linear(32, 64)),
        "'body' could take the raw input",
    ),
    "colour and depth": (
        Network(colour=conv(3, 8), depth=conv(1, 8), join=conv(16, 8)),
        "'depth' could take the raw input",
    ),
    "colour and optical flow": (
        Network(colour=conv(3, 64), flow=conv(20, 64), fc=nn.Linear(128, 20)),
        "'flow' could take the raw input",
    ),
    "two scales": (
        Network(small=conv(3, 96, 12), large=conv(3, 192, 16)),
        "'large' could take the raw input",
    ),
    "pixels moved into channels": (
        Network(full=conv(3, 16), quarter=conv(48, 16)),
        "'quarter' could take the raw input",
    ),
    "image and vector": (
        Network(image=conv(3, 16), table=nn.Linear(7, 16)),
        "'table' could take the raw input",
    ),
    "norm registered later": (
        Network(stem=conv(3, 16), norm=nn.BatchNorm2d(3)),
        "'norm' could take the raw input",
    ),
    "norm registered first": (
        Network(norm=nn.BatchNorm2d(3), stem=conv(3, 16)),
        "'norm', is a BatchNorm2d",
    ),
    "recurrent beside": (
        Network(stem=nn.Linear(16, 64), lstm=nn.LSTM(16, 64)),
        "'lstm' could take the raw input",
    ),
    "a bare scale": (with_scale(), "'' could take the raw input"),
    "metadata": (with_metadata(), "metadata names 'body' instead of 'stem'"),
}  # fmt: skip


@pytest.mark.parametrize("case", DOUBTFUL)
def test_doubts_are_put_into_words(case: str) -> None:
    model, message = DOUBTFUL[case]
    structure = read_structure(model)
    assert structure is not None
    with pytest.raises(AssertionError):
        assert structure.doubt is None
    with pytest.raises(ValueError, match=f"cannot tell the first layer: .*{message}"):
        trainact.first_layers(model)


def test_lazy_layers_are_not_initialised() -> None:
    model = nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU())
    with pytest.raises(ValueError, match="has no weight yet"):
        trainact.first_layers(model)
    model = Network(stem=conv(3, 8), head=nn.LazyLinear(10))
    with pytest.raises(ValueError, match="cannot tell the first layer"):
        trainact.first_layers(model)
    assert model.head.has_uninitialized_params()


def test_bare_parameters_only() -> None:
    model = nn.Module()
    model.inner = nn.Module()
    model.inner.scale = nn.Parameter(torch.ones(3))
    model.shift = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match="cannot tell the first layer"):
        trainact.first_layers(model)
    model.inner = nn.ReLU()
    with pytest.raises(
        ValueError,
        match=r"cannot tell .*: it has bare parameters only; .* no Linear or Conv",
    ):
        trainact.first_layers(model)


@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor:UserWarning")
def test_a_quantised_model_is_refused() -> None:
    quantised = torch.ao.nn.quantized.Linear(4, 2)
    with pytest.raises(ValueError, match="the model is quantised"):
        trainact.first_layers(nn.Sequential(quantised))
