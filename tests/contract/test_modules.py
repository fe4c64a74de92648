"""What a layer or model under TrAct owes to the code around it.

Every question is asked of the whole table `CASES`: identity of Parameters, state-dict
keys, hooks, modes, copies, pickles, random numbers, repr, and no cost where nothing is
trained.
"""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import Tensor, nn

import trainact
from tests.odd import raw_weight
from tests.parity.table import CASES
from trainact.statistics import local


@pytest.fixture(params=CASES)
def named(request) -> tuple[nn.Module, Tensor]:
    case = CASES[request.param]
    return case.layer(torch.float32), case.input(torch.float32)


def parameter_of(layer: nn.Module) -> nn.Parameter:
    """The weight, or what it is made of."""
    return raw_weight(dict(layer.named_parameters()))


def test_it_is_the_same_object_with_the_same_parameters(named) -> None:
    layer, _ = named
    parameters = list(layer.parameters())
    keys = list(layer.state_dict())
    kind, attributes, shown = type(layer), set(vars(layer)), repr(layer)
    # PyTorch makes a class for each parametrised layer.
    own = kind.__bases__[0] if hasattr(layer, "parametrizations") else kind
    assert trainact.TrAct(layer) is layer
    assert isinstance(layer, own)
    assert isinstance(layer, trainact.TrActLayer)
    name = kind.__name__.replace(own.__name__, f"TrAct{own.__name__}")
    assert type(layer).__name__ == name
    assert [id(p) for p in layer.parameters()] == [id(p) for p in parameters]
    assert list(layer.state_dict()) == keys
    with pytest.raises(ValueError, match=r"already: change λ with layer\.lam"):
        trainact.TrAct(layer, lam=0.3)
    assert layer.lam == 0.1
    assert trainact.remove(layer) is layer
    assert type(layer) is kind
    assert [id(p) for p in layer.parameters()] == [id(p) for p in parameters]
    assert set(vars(layer)) == attributes
    assert repr(layer) == shown


def test_mode_hooks_dtype_and_device_stay(named) -> None:
    layer, x = named
    seen = []
    layer.register_forward_hook(lambda *_: seen.append("forward"))
    layer.register_full_backward_hook(lambda *_: seen.append("backward"))
    parameter_of(layer).register_hook(lambda _: seen.append("weight"))
    layer.eval()
    layer.double()
    trainact.TrAct(layer)
    assert not layer.training
    assert layer.weight.dtype == torch.float64
    layer.train()
    layer(x.double().requires_grad_()).sum().backward()
    assert sorted(seen) == ["backward", "forward", "weight"]


def test_an_optimizer_made_before_still_trains_it(named) -> None:
    layer, x = named
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    trainact.TrAct(layer)
    weight = parameter_of(layer)
    before = weight.detach().clone()
    layer(x).square().sum().backward()
    optimizer.step()
    torch.testing.assert_close(weight.detach(), before - 0.1 * weight.grad)


def test_no_random_numbers_are_consumed(named) -> None:
    layer, x = named
    state = torch.get_rng_state()
    trainact.TrAct(layer)
    layer(x).sum().backward()
    trainact.remove(layer)
    assert torch.equal(torch.get_rng_state(), state)


def reload_with_torch(layer):
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), reload_with_torch],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_copies_train_alike(named, duplicate) -> None:
    layer, x = named
    trainact.TrAct(layer, lam=0.3)
    if hasattr(layer, "parametrizations") and duplicate is not copy.deepcopy:
        with pytest.raises(RuntimeError, match="of parametrized modules"):
            duplicate(layer)
        return
    twin = duplicate(layer)
    assert type(twin) is type(layer)
    assert twin.lam == 0.3
    for module in (layer, twin):
        module(x).square().sum().backward()
    for p, q in zip(layer.parameters(), twin.parameters(), strict=True):
        assert p is not q
        assert torch.equal(p.grad, q.grad)


def test_a_whole_module_loads_weights_only_once_allowed() -> None:
    layer = trainact.TrAct(nn.Linear(6, 3), lam=0.3)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    with torch.serialization.safe_globals([trainact.TrActLinear, set]):
        loaded = torch.load(buffer, weights_only=True)
    assert loaded.lam == 0.3


def test_lam_is_shown_and_can_be_changed(named) -> None:
    layer, x = named
    plain = layer.extra_repr()
    trainact.TrAct(layer, lam=0.1)
    gradients = []
    for lam in (0.1, 0.2):
        layer.lam = lam
        assert layer.extra_repr() == f"{plain}, lam={lam}"
        layer.zero_grad()
        layer(x).sum().backward()
        gradients.append(parameter_of(layer).grad.clone())
    assert not torch.equal(*gradients)


@pytest.mark.parametrize(
    "lam", [0, -0.1, float("nan"), float("inf"), "0.1", None, True]
)
def test_a_lam_that_makes_no_sense_is_refused(lam) -> None:
    with pytest.raises(ValueError, match=r"lam=.* is not a positive finite number"):
        trainact.TrAct(nn.Linear(2, 2), lam=lam)
    layer = trainact.TrAct(nn.Linear(2, 2), lam=0.3)
    with pytest.raises(ValueError, match=r"the paper uses 0\.1"):
        layer.lam = lam
    assert layer.lam == 0.3


@pytest.fixture
def no_statistics(monkeypatch):
    """Fail if any statistics are taken."""

    def refuse(*_args, **_kwargs):
        pytest.fail("statistics were taken")

    monkeypatch.setattr(local, "local_factor", refuse)


@pytest.mark.usefixtures("no_statistics")
def test_no_cost_where_nothing_is_trained(named) -> None:
    layer, x = named
    plain = copy.deepcopy(layer)
    trainact.TrAct(layer)
    with torch.no_grad():
        layer(x)
    with torch.inference_mode():
        layer(x)
    layer.eval()
    layer(x)
    layer.train()
    for module in (layer, plain):
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name == "bias")
    leaf = x.clone().requires_grad_()
    assert torch.equal(layer(leaf), plain(leaf))
    layer(leaf).sum().backward()
    assert leaf.grad is not None


def saved_bytes(layer, x) -> int:
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        layer(x)
    return sum(sizes)


def test_only_the_factor_is_saved() -> None:
    plain, x = nn.Conv2d(3, 8, 3), torch.randn(4, 3, 16, 16)
    treated = trainact.TrAct(copy.deepcopy(plain))
    assert saved_bytes(treated, x) - saved_bytes(plain, x) == 27 * 27 * 4
    treated.eval()
    assert saved_bytes(treated, x) == saved_bytes(plain, x)


def test_lazy_layers_once_materialised() -> None:
    for lazy, shape in [
        (nn.LazyLinear(3), (4, 6)),
        (nn.LazyConv1d(3, 3), (2, 3, 9)),
        (nn.LazyConv2d(3, 3), (2, 3, 9, 9)),
        (nn.LazyConv3d(3, 3), (2, 3, 5, 5, 5)),
    ]:
        with pytest.raises(ValueError, match="has no weight yet: run one batch"):
            trainact.TrAct(lazy)
        lazy(torch.randn(shape))
        trainact.TrAct(lazy)(torch.randn(shape)).sum().backward()
        assert torch.isfinite(lazy.weight.grad).all()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.LayerNorm(3), "the layer is a LayerNorm: TrAct trains Linear and Conv1d"),
        (nn.ConvTranspose2d(3, 3, 3), "ConvTranspose2d: TrAct trains"),
        (nn.Embedding(3, 3), "Embedding: TrAct trains"),
        (nn.Linear(3, 3, dtype=torch.complex64), "torch.complex64 weight"),
    ],
    ids=["norm", "transposed", "embedding", "complex"],
)
def test_other_layers_are_refused(layer, message) -> None:
    with pytest.raises(ValueError, match=message):
        trainact.TrAct(layer)


def test_a_replaced_forward_is_refused() -> None:
    layer = nn.Linear(3, 3)
    layer.forward = lambda x: x
    with pytest.raises(ValueError, match="forward was replaced on the instance"):
        trainact.TrAct(layer)


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match=r"takes a layer \(an nn.Module\), not Tensor"):
        trainact.TrAct(torch.zeros(3))
