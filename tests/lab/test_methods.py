"""Every method works on any model, in every way of training, or says why not.

Formulas: `test_method_formulas`. Optimizers: `test_chained_optimizer`. Methods of one's
own: `test_own_methods`.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.lab.applied import apply
from tests.tolerances import FLOAT32_PROMISE, low_precision_rtol, relative_error
from trainact.lab.methods import METHODS, find_method
from trainact.lab.methods.dual_patchnorm import DualPatchNormConv2d
from trainact.lab.methods.patchnorm import PatchNormConv2d
from trainact.lab.models import BUILT_IN, build_model

CHANGING = ("patchnorm", "dual-patchnorm", "whitening", "whitening+tract")
# Their gradients are made in Python, in the backward.
RULED = ("kfac", "tract-joint", "tract-scaled")
# Other images are sampled each time.
REPEATABLE = [method for method in METHODS if method != "tract-sampled"]
DOCS = Path(__file__).parents[2] / "docs" / "methods.md"


class LinearPatches(nn.Module):
    """A patch embedding by a Linear on [B, L, n], as in ViT-CIFAR."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Linear(48, 8)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        patches = x_BCHW.unfold(2, 4, 4).unfold(3, 4, 4)
        return self.emb(patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2))


def with_stem(**settings: Any) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, **settings), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)
    )


STEMS: dict[str, Callable[[], nn.Module]] = {
    "3x3": lambda: with_stem(kernel_size=3, padding=1),
    "4x4 patches": lambda: with_stem(kernel_size=4, stride=4),
    "7x7/2 reflect": lambda: with_stem(
        kernel_size=7, stride=2, padding=3, padding_mode="reflect", bias=False
    ),
    "linear patches": LinearPatches,
    **{name: lambda name=name: build_model(name, (3, 16, 16), 5) for name in BUILT_IN},
}
# Its images have one patch: batch norm over six values magnifies rounding.
del STEMS["small-patches-16"]


def converted(method: str, stem: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model, x = STEMS[stem](), torch.randn(6, 3, 16, 16).cumsum(-1) / 4
    return apply(method, model, x), x


def gradients(model: nn.Module, z: Tensor) -> Tensor:
    model.zero_grad()
    z.float().square().mean().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def skip_what_is_refused(method: str, stem: str) -> None:
    if method == "tract-joint" and stem in ("7x7/2 reflect", "small-resnet"):
        pytest.skip("the stem has no bias, which the method refuses")


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("method", REPEATABLE)
def test_contract(method: str, stem: str) -> None:
    """Copies, pickles, 64 and 16 bits, channels_last: the same function."""
    skip_what_is_refused(method, stem)
    model, x = converted(method, stem)
    z = model(x)
    grad = gradients(model, z)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    copies = (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(buffer, weights_only=False),
    )
    for other in copies:
        assert torch.equal(other(x), z)
        assert torch.equal(gradients(other, other(x)), grad)
    wide = copy.deepcopy(model).double()
    assert relative_error(z, wide(x.double())) < FLOAT32_PROMISE
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    z_last = last(x.contiguous(memory_format=torch.channels_last))
    assert relative_error(z_last, z) < FLOAT32_PROMISE
    assert relative_error(gradients(last, z_last), grad) < 10 * FLOAT32_PROMISE
    with torch.autocast("cpu", torch.bfloat16):
        z_low = model(x)
    assert z_low.dtype == torch.bfloat16
    assert relative_error(z_low, z) < 2 * low_precision_rtol(torch.bfloat16)
    assert gradients(model, z_low).isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_memory_format_of_the_output(method: str) -> None:
    model, x = converted(method, "3x3")
    x_last = x.contiguous(memory_format=torch.channels_last)
    assert model[0](x).is_contiguous()
    assert model[0](x_last).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("stem", ["4x4 patches", "7x7/2 reflect", "mlp"])
@pytest.mark.parametrize("method", [*CHANGING, "zca"])
def test_compiled(method: str, stem: str) -> None:
    torch.compiler.reset()
    model, x = converted(method, stem)
    z = model(x)
    grad = gradients(model, z)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert relative_error(compiled(x), z) < FLOAT32_PROMISE
    assert relative_error(gradients(model, compiled(x)), grad) < FLOAT32_PROMISE


@pytest.mark.parametrize("model", BUILT_IN)
@pytest.mark.parametrize("method", METHODS)
def test_state_dict_and_first_layer(method: str, model: str) -> None:
    """Names and shapes stay; what is new belongs to the first layer."""
    skip_what_is_refused(method, model)
    torch.manual_seed(0)
    plain = build_model(model, (3, 16, 16), 5)
    x = torch.randn(4, 3, 16, 16)
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    parameters = dict(plain.named_parameters())
    after = apply(method, plain, x).state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(dict(plain.named_parameters())[n] is p for n, p in parameters.items())
    first = {
        "small-cnn": "conv1",
        "mlp": "fc1",
        "small-vit": "patch_embed.proj",
        "small-resnet": "conv1",
        "small-mixer": "stem.proj",
        "small-patches-4": "patches",
        "small-patches-16": "patches",
    }[model]
    norms = [f"{n}.{p}" for n in ("pre_norm", "post_norm") for p in ("weight", "bias")]
    new = {
        "dual-patchnorm": {f"{first}.{name}" for name in norms},
        "whitening": {f"{first}.whitening"},
        "whitening+tract": {f"{first}.whitening"},
        "zca": {"zca", "zca_mean"},
    }
    assert set(after) - set(before) == new.get(method, set())


class TwoStems(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, 4, 2, stride=2)
        self.coarse = nn.Conv2d(3, 4, 4, stride=4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fine(x).mean((2, 3)) + self.coarse(x).mean((2, 3))


class OwnConv(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).exp()


class Spare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(3, 4)
        self.spare = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x.movedim(1, -1))


def replaced() -> nn.Module:
    layer: Any = nn.Conv2d(3, 4, 3)
    layer.forward = layer.forward
    return layer


@pytest.mark.parametrize("method", [*CHANGING, *RULED])
@pytest.mark.parametrize(
    ("model", "layer", "says"),
    [
        (TwoStems(), None, "several first layers, 'fine', 'coarse': name one"),
        (TwoStems(), "nose", "the model has no layer 'nose'"),
        (with_stem(kernel_size=3), "1", "'1' is a BatchNorm2d: this method changes"),
        (OwnConv(3, 4, 3), "", "is a OwnConv: this method changes plain"),
        (replaced(), "", "is a Conv2d with a forward of its own"),
        (nn.BatchNorm2d(3), None, "BatchNorm2d"),
        (nn.ConvTranspose2d(3, 4, 3), None, "ConvTranspose2d"),
    ],
)
def test_refused(method: str, model: nn.Module, layer: str | None, says: str) -> None:
    types = [type(module) for module in model.modules()]
    with pytest.raises(ValueError, match=says) as error:
        apply(method, model, torch.randn(2, 3, 8, 8), layer)
    assert "\n" not in str(error.value)
    assert [type(module) for module in model.modules()] == types


@pytest.mark.parametrize(
    ("method", "model", "layer", "says"),
    [
        ("patchnorm", nn.Conv2d(3, 6, 1, groups=3), "", "patches of one value"),
        ("dual-patchnorm", nn.Conv2d(3, 6, 1, groups=3), "", "patches of one value"),
        ("dual-patchnorm", nn.Conv2d(3, 6, 3, groups=3), "", "has groups=3"),
        ("dual-patchnorm", nn.Conv2d(3, 1, 3), "", "has one output"),
        ("tract-joint", nn.Conv2d(3, 1, 3, bias=False), "", "has no bias to solve"),
        ("zca", nn.Linear(4097, 2), "", "4,097 values are too large to be whitened"),
        ("whitening", Spare(), "spare", "does not call layer 'spare'"),
        ("whitening", nn.Linear(4097, 2), "", "4097 entries: whitening decomposes"),
    ],
)
def test_refused_by_one(method: str, model: nn.Module, layer: str, says: str) -> None:
    x = (
        torch.randn(2, 4097)
        if isinstance(model, nn.Linear)
        else torch.randn(2, 3, 8, 8)
    )
    with pytest.raises(ValueError, match=says) as error:
        apply(method, model, x, layer)
    assert "\n" not in str(error.value)


def test_one_of_two_stems_by_name() -> None:
    model, x = TwoStems(), torch.randn(2, 3, 8, 8)
    apply("patchnorm", model, x, layer="coarse")
    apply("dual-patchnorm", model, x, layer="fine")
    assert type(model.coarse) is PatchNormConv2d
    assert type(model.fine) is DualPatchNormConv2d
    assert model(x).shape == (2, 4)


@pytest.mark.parametrize("method", METHODS)
def test_trains(method: str) -> None:
    """The first layer's weight learns, and the loss falls."""
    model, x = converted(method, "small-cnn")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    before = model.conv1.weight.detach().clone()
    labels = torch.arange(6) % 5
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert not torch.equal(model.conv1.weight, before)


@pytest.mark.parametrize("method", [*CHANGING, *RULED])
def test_a_single_image_and_none(method: str) -> None:
    layer: Any = nn.Conv2d(3, 4, 3)
    x = torch.randn(2, 3, 8, 8)
    apply(method, layer, x, layer="")
    assert relative_error(layer(x[0]), layer(x)[0]) < FLOAT32_PROMISE
    assert layer(x[:0]).shape == (0, 4, 6, 6)


def test_registry() -> None:
    names = ["vanilla", "tract", "tract+sgd", "patchnorm", "dual-patchnorm"]
    rivals = ["whitening", "tract+row-adam", "vanilla+sgd", "vanilla+row-adam"]
    assert [*METHODS][:9] == [*names, *rivals]
    with_lam = {name for name, method in METHODS.items() if method.uses_lam}
    assert with_lam == {m for m in METHODS if "tract" in m} | {"kfac"}
    for name, method in METHODS.items():
        assert find_method(name) is method
        assert method.name == name
        assert method.summary
        assert "\n" not in method.summary
        assert f"| `{name}` |" in DOCS.read_text()
