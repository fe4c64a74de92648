"""What else holds on to a layer: hooks, averages, ties, parametrizations, masks, LoRA.

Each sees, or leaves alone, the gradient that TrAct makes: once.
"""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import trainact
from tests.cases import oracle_gradient
from tests.parity.table import LAYERS, eager, gradient_like
from tests.tolerances import ORACLE_RTOL, relative_error
from trainact.statistics import local


@pytest.fixture(params=LAYERS)
def pair(request) -> tuple[nn.Module, nn.Module, Tensor]:
    """The layer under TrAct, the plain one, and an input."""
    case = LAYERS[request.param]
    plain = case.layer(torch.float64)
    return trainact.TrAct(copy.deepcopy(plain)), plain, case.input(torch.float64)


@pytest.fixture
def statistics(monkeypatch) -> list[Tensor]:
    """The inputs that statistics are taken of."""
    taken: list[Tensor] = []

    def watch(x, *args):
        taken.append(x)
        return local_factor(x, *args)

    local_factor = local.local_factor
    monkeypatch.setattr(local, "local_factor", watch)
    return taken


def test_hooks_see_the_gradient_once(pair) -> None:
    layer, plain, x = pair
    seen: dict[str, list] = {name: [] for name in ("tensor", "accumulated", "order")}
    layer.weight.register_hook(lambda g: seen["tensor"].append(g.clone()))
    layer.weight.register_post_accumulate_grad_hook(
        lambda p: seen["accumulated"].append(p.grad.clone())
    )
    for module, name in ((layer, "treated"), (plain, "plain")):
        seen[name] = []

        def note(_module, *values, kept=seen[name]):
            kept.extend(v.clone() for group in values for v in group if v is not None)

        module.register_full_backward_pre_hook(note)
        module.register_full_backward_hook(note)
    layer.register_forward_pre_hook(lambda *_: seen["order"].append("before"))
    layer.register_forward_hook(lambda *_: seen["order"].append("after"))
    for module in (layer, plain):
        eager(module, x.clone().requires_grad_())
    truth = oracle_gradient(layer, x, gradient_like(layer(x)), 0.1)
    for name in ("tensor", "accumulated"):
        (gradient,) = seen[name]
        assert relative_error(gradient, truth) < ORACLE_RTOL
    assert seen["order"][:2] == ["before", "after"]
    # Gradient of the output twice and of the input once: as without TrAct.
    assert len(seen["treated"]) == len(seen["plain"]) == 3
    assert all(map(torch.equal, seen["treated"], seen["plain"]))


def test_a_hook_may_replace_the_gradient(pair) -> None:
    layer, _, x = pair
    layer.weight.register_hook(lambda g: g / 2)
    _, grad_z, gradients = eager(layer, x)
    truth = oracle_gradient(layer, x, grad_z, 0.1) / 2
    assert relative_error(gradients["weight"], truth) < ORACLE_RTOL


@pytest.mark.parametrize("kind", ["mean", "ema"])
def test_averages_follow_and_neither_disturbs_the_other(pair, kind: str) -> None:
    layer, _, x = pair
    options = {
        "mean": {},
        "ema": {"multi_avg_fn": torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)},
    }[kind]
    average = torch.optim.swa_utils.AveragedModel(layer, **options)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    weights = []
    for _ in range(2):
        optimizer.zero_grad()
        eager(layer, x)
        optimizer.step()
        average.update_parameters(layer)
        weights.append(layer.weight.detach().clone())
    mean = (weights[0] + weights[1]) / 2
    assert relative_error(average.module.weight, mean) < ORACLE_RTOL
    assert isinstance(average.module, trainact.TrActLayer)
    assert average.module.weight.grad is None
    copy.deepcopy(average).module.load_state_dict(layer.state_dict())


@pytest.mark.parametrize("both", [False, True], ids=["one under TrAct", "both"])
def test_a_shared_parameter_adds_up_each_layers_gradient(pair, both: bool) -> None:
    layer, plain, x = pair
    second = trainact.TrAct(copy.deepcopy(plain), lam=0.5) if both else plain
    second.weight = layer.weight
    other = 3 * x + 1
    grad_z = gradient_like(layer(x))
    layer.zero_grad()
    (layer(x) * grad_z + 2 * second(other) * grad_z).sum().backward()
    first = oracle_gradient(layer, x, grad_z, 0.1)
    # λ so large that the oracle's gradient, times it, is the ordinary one.
    lam = 0.5 if both else 1e12
    scale = 1.0 if both else lam
    rest = oracle_gradient(layer, other, 2 * grad_z, lam) * scale
    assert relative_error(layer.weight.grad, first + rest) < ORACLE_RTOL


PARAMETRIZED = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("kind", PARAMETRIZED)
@pytest.mark.parametrize("name", ["linear", "linear, dual", "conv1d", "conv2d, dual"])
def test_parametrized(kind: str, name: str, order: str) -> None:
    # The gradient of the weight that the layer uses is TrAct's; from there on the
    # parametrization differentiates it as it would any other.
    case = LAYERS[name]
    layer = case.layer(torch.float64)
    steps = [PARAMETRIZED[kind], trainact.TrAct]
    for step in steps if order == "before" else reversed(steps):
        step(layer)
    x = case.input(torch.float64)
    parametrizations_of = layer.parametrizations.weight
    originals = list(parametrizations_of.parameters())
    layer(x)  # spectral_norm iterates in training mode only
    layer.parametrizations.eval()
    z = layer(x)
    grad_z = gradient_like(z)
    z.backward(grad_z)
    truth = torch.as_tensor(oracle_gradient(layer, x, grad_z, 0.1))
    expected = torch.autograd.grad(layer.weight, originals, truth)
    for original, value in zip(originals, expected, strict=True):
        assert relative_error(original.grad, value) < ORACLE_RTOL
    assert isinstance(layer, trainact.TrActLayer)
    assert isinstance(copy.deepcopy(layer), trainact.TrActLayer)


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("first_off", ["parametrization", "TrAct"])
def test_parametrizations_and_tract_come_off_in_any_order(
    order: str, first_off: str
) -> None:
    layer, x = nn.Linear(3, 3), torch.randn(5, 3)
    steps = [parametrizations.weight_norm, trainact.TrAct]
    for step in steps if order == "before" else reversed(steps):
        step(layer)
    z = layer(x)
    assert type(layer).__name__ == "ParametrizedTrActLinear"
    if first_off == "parametrization":
        parametrize.remove_parametrizations(layer, "weight")
        assert type(layer) is trainact.TrActLinear
        trainact.remove(layer)
    else:
        trainact.remove(layer)
        assert type(layer).__name__ == "ParametrizedLinear"
        assert type(layer).__bases__ == (nn.Linear,)
        parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is nn.Linear
    assert list(layer.state_dict()) == ["bias", "weight"]
    torch.testing.assert_close(layer(x), z)


def test_parametrizations_may_change_under_tract() -> None:
    layer, x = nn.Linear(3, 3), torch.randn(5, 3)
    parametrizations.weight_norm(layer)
    kind = type(layer)
    assert type(trainact.remove(trainact.TrAct(layer))) is kind
    trainact.TrAct(layer)
    parametrize.register_parametrization(layer, "bias", nn.Tanh())
    parametrize.remove_parametrizations(layer, "weight")
    z = layer(x)
    trainact.remove(layer)
    assert torch.equal(layer(x), z)
    parametrize.remove_parametrizations(layer, "bias")
    assert type(layer) is nn.Linear


def masked(layer: nn.Module) -> None:
    prune.l1_unstructured(layer, "weight", 0.5)


def old_weight_norm(layer: nn.Module) -> None:
    with warnings.catch_warnings():
        # torch's notice that the parametrization is its successor
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(layer)


def old_spectral_norm(layer: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.spectral_norm(layer)


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("rewrite", [masked, old_weight_norm, old_spectral_norm])
@pytest.mark.parametrize("name", LAYERS)
def test_weights_that_a_pre_hook_writes(name: str, rewrite, order: str) -> None:
    case = LAYERS[name]
    plain = case.layer(torch.float64)
    treated = copy.deepcopy(plain)
    if order == "before":
        rewrite(treated)
    trainact.TrAct(treated)
    if order == "after":
        rewrite(treated)
    x = case.input(torch.float64)
    z = treated(x)
    grad_z = gradient_like(z)
    originals = [p for n, p in treated.named_parameters() if n != "bias"]
    truth = torch.as_tensor(oracle_gradient(plain, x, grad_z, 0.1))
    expected = torch.autograd.grad(treated.weight, originals, truth, retain_graph=True)
    z.backward(grad_z)
    for original, value in zip(originals, expected, strict=True):
        assert relative_error(original.grad, value) < ORACLE_RTOL
    if rewrite is masked:
        assert not originals[0].grad[treated.weight_mask == 0].any()
        prune.remove(treated, "weight")
        assert isinstance(treated, trainact.TrActLayer)


@pytest.mark.parametrize("rewrite", [masked, parametrizations.weight_norm])
def test_a_frozen_weight_costs_nothing_whoever_writes_it(rewrite, statistics) -> None:
    layer = trainact.TrAct(nn.Linear(6, 3))
    rewrite(layer)
    layer.requires_grad_(False)
    layer(torch.randn(9, 6))
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    torch.func.functional_call(layer, parameters, (torch.randn(9, 6),))
    assert not statistics
    layer.requires_grad_(True)
    layer(torch.randn(9, 6))
    assert len(statistics) == 1


class LoRA(nn.Module):
    """A low-rank addition to a layer's output."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, rank, bias=False, dtype=torch.float64)
        self.up = nn.Linear(rank, base.out_features, bias=False, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


@pytest.mark.parametrize("frozen", [False, True])
def test_lora(frozen: bool, statistics) -> None:
    base = trainact.TrAct(nn.Linear(7, 3, dtype=torch.float64))
    base.requires_grad_(not frozen)
    model = LoRA(base, rank=2)
    x = torch.randn(16, 7, dtype=torch.float64)
    z = model(x)
    grad_z = gradient_like(z)
    z.backward(grad_z)
    assert model.up.weight.grad is not None
    assert len(statistics) == (0 if frozen else 1)
    if not frozen:
        truth = oracle_gradient(base, x, grad_z, 0.1)
        assert relative_error(base.weight.grad, truth) < ORACLE_RTOL


def test_lora_factor_itself_under_tract(statistics) -> None:
    model = LoRA(nn.Linear(7, 3, dtype=torch.float64).requires_grad_(False), rank=2)
    trainact.apply(model, layer="down")
    x = torch.randn(16, 7, dtype=torch.float64)
    z = model(x)
    grad_z = gradient_like(z)
    z.backward(grad_z)
    truth = oracle_gradient(model.down, x, grad_z @ model.up.weight.detach(), 0.1)
    assert relative_error(model.down.weight.grad, truth) < ORACLE_RTOL
    assert len(statistics) == 1


def test_statistics_are_taken_once_a_call(pair, statistics) -> None:
    layer, _, x = pair
    eager(layer, x)
    assert len(statistics) == 1


def test_an_empty_batch_beside_another(pair) -> None:
    layer, _, x = pair
    grad_z = gradient_like(layer(x))
    ((layer(x) * grad_z).sum() + layer(x[:0]).sum()).backward()
    truth = oracle_gradient(layer, x, grad_z, 0.1)
    assert relative_error(layer.weight.grad, truth) < ORACLE_RTOL
