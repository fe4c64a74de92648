"""Subclasses and parametrised layers: found out at the call, or refused with a reason.

A forward that hides its linear map is an error, never the ordinary gradient
(`test_a_hidden_linear_map_...`); one that hides a part of it is told once
(`test_a_part_...`), and what cannot be right is refused. That the parameters get the
oracle's gradient of the effective weight, carried on by the chain rule, is in
``parity``; what such a layer owes to others in ``contract``.
"""

from __future__ import annotations

import copy
import functools
import pickle
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

import trainact
from tests.cases import backward, oracle_gradient, oracle_rows
from tests.odd import ODD, Named
from tests.tolerances import FLOAT32_PROMISE, ORACLE_RTOL, relative_error
from trainact.diagnostics import diagnose
from trainact.statistics import local


def test_layers_of_one_class_share_one_class() -> None:
    first, second = (trainact.TrAct(Named(3, 4, 3)) for _ in range(2))
    assert type(first) is type(second)
    assert trainact.tract_layers(nn.Sequential(first, second)).keys() == {"0", "1"}


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy])
def test_a_class_made_of_a_made_class_is_copied_as_it_is(copied) -> None:
    layer = trainact.TrAct(Named(3, 4, 3), lam=0.3)
    layer.__class__ = kind = type("OnTop", (type(layer),), {})
    twin = copied(layer)
    assert type(twin) is kind
    assert twin.lam == 0.3
    assert torch.equal(twin.weight, layer.weight)


def test_spectral_norm_iterates_as_without_tract() -> None:
    # Reading layer.weight in training mode is a power iteration: count them.
    plain = parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))
    treated = trainact.TrAct(copy.deepcopy(plain))
    for _ in range(3):
        x = torch.randn(2, 3, 6, 6)
        assert torch.equal(plain(x), treated(x))
    for p, q in zip(plain.buffers(), treated.buffers(), strict=True):
        assert torch.equal(p, q)


def test_a_layer_that_fixes_its_padding_at_the_first_call() -> None:
    module = pytest.importorskip("timm.layers.conv2d_same")
    plain = module.Conv2dSameExport(3, 4, 3, stride=2).double()
    layer, case = trainact.TrAct(plain), ODD["same conv"]
    for seed in range(2):
        x = case.input(torch.float64, seed)
        layer.zero_grad()
        _, grad_z = backward(layer, x)
        truth = case.gradients(layer, x, grad_z)["weight"]
        assert relative_error(layer.weight.grad, truth) < ORACLE_RTOL


def test_a_pruned_layer_of_a_class_of_its_own() -> None:
    case = ODD["same conv"]
    layer = case.layer(torch.float64)
    prune.l1_unstructured(layer, "weight", 0.5)
    trainact.TrAct(layer)
    x = case.input(torch.float64)
    _, grad_z = backward(layer, x)
    truth = oracle_gradient(layer, case.padded(layer, x), grad_z, 0.1)
    masked = truth * layer.weight_mask.numpy()
    assert relative_error(layer.weight_orig.grad, masked) < ORACLE_RTOL


class Product(nn.Linear):
    """Hides its linear map in a matrix product, as a fused kernel would."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.bias


class BlurredProduct(Product):
    """Calls a linear map, but not its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.linear(x, torch.eye(self.in_features)))


class Gated(Product):
    """Calls a linear map with another parameter than its weight."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.gate = nn.Parameter(torch.ones(1, self.out_features))

    def forward(self, x: Tensor) -> Tensor:
        z = super().forward(x)
        return z * F.linear(z, self.gate).sigmoid()


def call_compiled(layer: nn.Module, x: Tensor) -> Tensor:
    torch._dynamo.reset()
    return torch.compile(layer, backend="aot_eager")(x)


def call_in_grad(layer: nn.Module, x: Tensor) -> None:
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters):
        return torch.func.functional_call(layer, parameters, (x,)).sum()

    torch.func.grad(loss)(parameters)


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        (Product, nn.Module.__call__),
        (Product, call_compiled),
        (Product, call_in_grad),
        (BlurredProduct, nn.Module.__call__),
        (BlurredProduct, call_compiled),
        (Gated, nn.Module.__call__),
        (Gated, call_compiled),
        (Gated, call_in_grad),
    ],
)
def test_a_hidden_linear_map_is_an_error(kind: type[nn.Linear], call) -> None:
    layer = trainact.TrAct(kind(3, 2))
    message = f"forward of TrAct{kind.__name__} has called none of torch.nn.functional"
    with pytest.raises(RuntimeError, match=message):
        call(layer, torch.randn(4, 3))


def test_a_hidden_linear_map_is_none_where_nothing_is_trained() -> None:
    layer, x = trainact.TrAct(Product(3, 2)), torch.randn(4, 3)
    with torch.no_grad():
        layer(x)
    layer.weight.requires_grad_(False)
    layer(x.requires_grad_()).sum().backward()
    layer.weight.requires_grad_(True)
    layer.eval()(x)
    assert type(trainact.remove(layer)) is Product


@pytest.mark.parametrize("make", [ODD["centred linear"].make, ODD["std conv"].make])
def test_nothing_is_refused_where_the_parameters_are_detached(make) -> None:
    layer = trainact.TrAct(make())
    x = torch.randn((2, 4, 9, 9) if isinstance(layer, nn.Conv2d) else (4, 7))
    detached = {name: p.detach() for name, p in layer.named_parameters()}
    z = torch.func.functional_call(layer, detached, (x,))
    # As DataParallel makes of a frozen layer in each thread.
    replica = layer._replicate_for_data_parallel()
    replica._parameters = {}
    for name, value in detached.items():
        setattr(replica, name, value)
    assert torch.equal(replica(x), z)
    assert not z.requires_grad


class HalfHidden(nn.Linear):
    """One half of the product is called, the other one is written out."""

    def forward(self, x: Tensor) -> Tensor:
        seen = F.linear(x[:, :2], self.weight[:, :2], self.bias)
        return seen + x[:, 2:] @ self.weight[:, 2:].T


class WrittenInPlace(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        z = x.new_zeros(len(x), self.out_features)
        z[:] = x @ self.weight.T
        return F.linear(x, self.weight) + z


class Scaled(nn.Linear):
    """As simulated quantisation does: scales its weight by a constant of its own."""

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight.detach().abs().amax()
        x = x.type_as(self.weight)
        return F.linear(x, self.weight / scale, self.bias) * scale


@pytest.mark.parametrize("leaf", [False, True], ids=["", "input gradient"])
@pytest.mark.parametrize(
    ("kind", "call"),
    [
        (HalfHidden, nn.Module.__call__),
        (HalfHidden, call_compiled),
        (WrittenInPlace, nn.Module.__call__),
        (Scaled, nn.Module.__call__),
        (Scaled, call_compiled),
    ],
)
def test_a_part_of_the_linear_map_that_is_hidden_is_told_once(kind, call, leaf) -> None:
    layer, x = trainact.TrAct(kind(4, 2)), torch.randn(5, 4, requires_grad=leaf)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        call(layer, x).sum().backward()
    messages = [str(w.message) for w in told]
    assert len(messages) == (kind is not Scaled)
    assert all("trainact" in m and "by another way" in m for m in messages)
    if call is nn.Module.__call__:
        layer(x)


def test_transformers_standardised_convolution() -> None:
    bit = pytest.importorskip("transformers.models.bit.modeling_bit")
    case = ODD["std conv, same"]
    layer = bit.WeightStandardizedConv2d(3, 4, 3, stride=2).double()
    trainact.TrAct(layer)
    x = case.input(torch.float64)
    _, grad_z = backward(layer, x)
    truth = case.gradients(layer, x, grad_z)["weight"]
    assert relative_error(layer.weight.grad, truth) < ORACLE_RTOL


def test_perceivers_padding_convolution() -> None:
    perceiver = pytest.importorskip("transformers.models.perceiver.modeling_perceiver")
    layer = perceiver.Conv2dSamePadding(3, 4, kernel_size=(7, 4), stride=2).double()
    trainact.TrAct(layer)
    x = torch.randn(2, 3, 12, 9, dtype=torch.float64)
    _, grad_z = backward(layer, x)
    truth = oracle_gradient(layer, F.pad(x, (1, 2, 3, 3)), grad_z, 0.1)
    assert relative_error(layer.weight.grad, truth) < ORACLE_RTOL


def test_torchvisions_video_convolution() -> None:
    resnet = pytest.importorskip("torchvision.models.video.resnet")
    layer = trainact.TrAct(resnet.Conv3DSimple(2, 4).double())
    assert isinstance(layer, resnet.Conv3DSimple)
    assert isinstance(layer, trainact.TrActConv3d)  # which it computes like
    x = torch.randn(2, 2, 4, 5, 6, dtype=torch.float64)
    _, grad_z = backward(layer, x)
    truth = oracle_gradient(layer, x, grad_z, 0.1)
    assert relative_error(layer.weight.grad, truth) < ORACLE_RTOL


def test_falcons_linear_hides_its_map() -> None:
    falcon = pytest.importorskip("transformers.models.falcon.modeling_falcon")
    layer = trainact.TrAct(falcon.FalconLinear(3, 2))
    with pytest.raises(RuntimeError, match="TrActFalconLinear has called none of"):
        layer(torch.randn(4, 3))


class WithNorm(nn.Conv2d):
    """Brings its norm along, as detection libraries' convolutions do."""

    def __init__(self) -> None:
        super().__init__(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x)).relu()


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("make", [WithNorm, ODD["centred linear"].make])
def test_a_frozen_weight_costs_nothing(make, compiled: bool, monkeypatch) -> None:
    layer = trainact.TrAct(make())
    layer.weight.requires_grad_(False)
    x = torch.randn((2, 3, 6, 6) if isinstance(layer, nn.Conv2d) else (4, 7))
    torch._dynamo.reset()
    call = torch.compile(layer, backend="aot_eager") if compiled else layer
    monkeypatch.setattr(local, "local_factor", pytest.fail)
    call(x).sum().backward()
    assert layer.weight.grad is None
    assert all(p.grad is not None for p in layer.parameters() if p.requires_grad)


def test_a_norm_inside_is_a_later_layer() -> None:
    layer = trainact.TrAct(WithNorm().double())
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    grad_z = torch.randn(2, 4, 4, 4, dtype=torch.float64)
    inner: list[Tensor] = []
    layer.norm.register_full_backward_hook(lambda _m, grads, _g: inner.extend(grads))
    layer(x).backward(grad_z)
    truth = oracle_gradient(layer, x, inner[0], 0.1)
    assert relative_error(layer.weight.grad, truth) < ORACLE_RTOL


class TwoViews(nn.Conv2d):
    """Calls its map twice, on two scales, behind a fixed blur."""

    def forward(self, x: Tensor) -> Tensor:
        blur = x.new_full((x.shape[1], 1, 2, 2), 0.25)
        blurred = F.conv2d(x, blur, groups=x.shape[1])
        fine = F.conv2d(blurred, self.weight, padding=[1])
        coarse = F.conv2d(blurred, self.weight, self.bias, (2, 2), "valid", 2)
        return fine.mean((2, 3)) + coarse.mean((2, 3))


def test_each_call_has_its_own_input_and_geometry() -> None:
    layer = trainact.TrAct(TwoViews(3, 4, 3, dtype=torch.float64))
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    _, grad_z = backward(layer, x)
    blurred = F.avg_pool2d(x, 2, stride=1)
    truth = 0
    for settings in ({"padding": 1}, {"stride": 2, "dilation": 2}):
        plain = nn.Conv2d(3, 4, 3, **settings)
        size = plain.double()(blurred).shape[2:]
        spread = grad_z[..., None, None].expand(-1, -1, *size) / size.numel()
        truth = truth + oracle_gradient(plain, blurred, spread, 0.1)
    assert relative_error(layer.weight.grad, truth) < ORACLE_RTOL
    with pytest.raises(ValueError, match="computes 3 linear maps in its forward"):
        diagnose(layer, x, grad_z)


class Bottleneck(nn.Linear):
    """As adapters do: the weight is trained together with a path around it."""

    def __init__(self) -> None:
        super().__init__(8, 4)
        self.lora_a = nn.Parameter(torch.zeros(2, 8))
        self.lora_b = nn.Parameter(torch.zeros(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ self.lora_a.T @ self.lora_b.T


class Integer(nn.Linear):
    """Stores its weight as quantised layers do."""

    def __init__(self) -> None:
        super().__init__(3, 2)
        self.weight = nn.Parameter(torch.ones(2, 3, dtype=torch.int8), False)


class Packed(nn.Linear):
    def __init__(self) -> None:
        super().__init__(3, 2)
        del self.weight


class Tracted(nn.Linear):
    def __init__(self) -> None:
        super().__init__(3, 2)
        self.tract = "of nerves"


class WithNames(nn.Linear):
    """Has the names of all settings for things of its own."""

    overlap = 7

    def __init__(self) -> None:
        super().__init__(3, 2)
        self.lam = 1e-4
        self.relative = nn.Tanh()
        self.register_buffer("estimate", torch.ones(2))

    def sync(self) -> str:
        return "mine"


@pytest.mark.parametrize(
    "again",
    [
        lambda layer: layer,
        copy.deepcopy,
        lambda layer: pickle.loads(pickle.dumps(layer)),
    ],
)
def test_a_layer_keeps_attributes_that_are_named_like_settings(again) -> None:
    layer, x = WithNames(), torch.randn(8, 3)
    plain = copy.deepcopy(layer)
    trainact.TrAct(layer, lam=0.3, sync=True)
    layer = again(layer)
    layer.lam, layer.overlap = 2e-4, 8
    assert (layer.lam, layer.overlap, layer.sync()) == (2e-4, 8, "mine")
    assert isinstance(layer.relative, nn.Tanh)
    assert layer.estimate.tolist() == [1, 1]
    settings = layer.tract
    assert (settings.lam, settings.relative, settings.sync) == (0.3, False, True)
    assert layer.state_dict().keys() == plain.state_dict().keys()
    _, grad_z = backward(layer, x)
    truth = oracle_gradient(layer, x, grad_z, lam=0.3)
    assert relative_error(layer.weight.grad, truth) < FLOAT32_PROMISE
    assert type(trainact.remove(layer)) is WithNames
    assert (layer.lam, layer.overlap, layer.sync()) == (2e-4, 8, "mine")


def complex_weight() -> nn.Module:
    layer = nn.Linear(3, 2, dtype=torch.complex64)
    return parametrizations.orthogonal(layer)


def quantised() -> nn.Module:
    with warnings.catch_warnings():
        # torch.ao's notices about its own successor
        warnings.simplefilter("ignore")
        return pytest.importorskip("torch.ao.nn.quantized").Linear(3, 2)


def replaced_forward() -> nn.Module:
    layer = Named(3, 4, 3)
    layer.forward = functools.partial(Named.forward, layer)
    return layer


def class_on_top() -> nn.Module:
    layer = parametrizations.weight_norm(nn.Linear(3, 2))
    layer.__class__ = type("Wrapped", (type(layer),), {})
    return layer


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Bottleneck, r"parameters 'lora_a', 'lora_b' beside its weight and bias"),
        (Integer, "with a torch.int8 weight"),
        (Packed, "without a weight"),
        (quantised, r"a Linear of torch\.ao\.\S+, not torch\.nn: TrAct trains Linear"),
        (Tracted, "with an attribute 'tract' of its own"),
        (complex_weight, "with a torch.complex64 weight"),
        (replaced_forward, "forward was replaced on the instance"),
        (class_on_top, "a class that something made of a parametrised layer"),
        (lambda: nn.MultiheadAttention(4, 2).out_proj, "without calling the layer"),
    ],
)
def test_what_cannot_be_right_is_refused(make, message: str) -> None:
    layer = make()
    kind = type(layer)
    with pytest.raises(ValueError, match=message):
        trainact.TrAct(layer)
    assert type(layer) is kind


def test_deferred_refuses_what_it_cannot_reach() -> None:
    layer = trainact.TrAct(ODD["centred linear"].layer(torch.float32))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    message = "computes with another weight, made of"
    with (
        trainact.deferred(layer, optimizer),
        pytest.raises(RuntimeError, match=message),
    ):
        layer(torch.randn(2, 7))
    layer(torch.randn(2, 7)).sum().backward()
    layer = trainact.TrAct(ODD["weight norm"].layer(torch.float32))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="is computed from other parameters"):
        trainact.deferred(layer, optimizer).__enter__()


@pytest.mark.parametrize("name", ODD)
def test_diagnose_sees_what_the_linear_map_is_given(name: str) -> None:
    case = ODD[name]
    layer, x = trainact.TrAct(case.layer(torch.float64)), case.input(torch.float64)
    _, grad_z = backward(layer, x)
    figures = diagnose(layer, x, grad_z)
    padded = case.padded(layer, x)
    rows_GNP = oracle_rows(layer, padded)
    tract = oracle_gradient(layer, padded, grad_z, 0.1)
    plain = oracle_gradient(layer, padded, grad_z, 1e12) * 1e12
    assert (figures.num_rows, figures.num_entries) == rows_GNP.shape[1:]
    ratio = (tract**2).sum() / (plain**2).sum()
    assert figures.update_ratio**2 == pytest.approx(ratio, rel=1e-6)
