"""Cheaper statistics: exactly the older, averaged or sampled ones that were asked for.

1. At call t the gradient is the ordinary one times (A + λI)⁻¹ of the A that `Estimate`
   documents (`test_every`, `test_decay`, `test_fraction`, `test_all_together`).
2. `Estimate()` is no estimate, to the bit (`test_nothing_asked_for_is_exact`).
3. What is not finite is not kept (`test_non_finite_*`), and nothing waits for the
   device (`test_no_number_is_read_back`).
4. Passes that do not train, and second passes of the same call, do not count
   (`test_silent_passes`, `test_checkpointing`).
"""

from __future__ import annotations

import copy
import io
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import trainact
from tests.cases import oracle_gradient, oracle_rows
from tests.odd import ODD, raw_weight
from tests.parity.table import CASES, FEW, LAYERS, gradient_like
from tests.tolerances import FLOAT32_PROMISE, ORACLE_RTOL, relative_error, solve_rtol
from trainact import Estimate
from trainact.geometry import Geometry, layer_geometry
from trainact.statistics.estimated import sample

LAM = 0.1
CALLS = 7


def inputs(name: str, calls: int = CALLS, dtype: torch.dtype = torch.float64):
    """Batches whose statistics differ: each of another scale."""
    case = CASES[name]
    return [(1 + t) * case.input(dtype, seed=t) for t in range(calls)]


def layers(
    name: str, estimate: Estimate | None, dtype: torch.dtype = torch.float64, **options
) -> tuple[nn.Module, nn.Module]:
    """(plain, under TrAct with an estimate)."""
    plain = CASES[name].layer(dtype)
    treated = trainact.TrAct(copy.deepcopy(plain), LAM, estimate=estimate, **options)
    return plain, treated


def gradient(layer: nn.Module, x: Tensor) -> Tensor:
    layer.zero_grad()
    z = layer(x)
    z.backward(gradient_like(z))
    return raw_weight({key: p.grad for key, p in layer.named_parameters()}).clone()


def gradients(layer: nn.Module, batches: Iterable[Tensor]) -> list[Tensor]:
    return [gradient(layer, x) for x in batches]


def products(layer: nn.Module, x: Tensor) -> tuple[np.ndarray, int]:
    """XᵀX per group, and the number of rows."""
    rows_GNP = oracle_rows(layer, x)
    return rows_GNP.swapaxes(1, 2) @ rows_GNP, rows_GNP.shape[1]


def expected(
    plain: nn.Module, x: Tensor, gram_GPP: np.ndarray, lam: float = LAM
) -> np.ndarray:
    """The ordinary gradient times (A + λI)⁻¹."""
    groups, size, _ = gram_GPP.shape
    grad = gradient(plain, x)
    grad_GOP = grad.double().numpy().reshape(groups, -1, size)
    solved = np.linalg.solve(gram_GPP + lam * np.eye(size), grad_GOP.swapaxes(1, 2))
    return solved.swapaxes(1, 2).reshape(grad.shape)


def gram(plain: nn.Module, x: Tensor) -> np.ndarray:
    total_GPP, num_rows = products(plain, x)
    return total_GPP / num_rows


def running_grams(
    plain: nn.Module, batches: Iterable[Tensor], decay: float
) -> list[np.ndarray]:
    """The documented average, by its definition."""
    seen = [products(plain, x) for x in batches]
    means = []
    for t in range(len(seen)):
        weights = [decay ** (t - s) for s in range(t + 1)]
        total = sum(w * p for w, (p, _) in zip(weights, seen, strict=False))
        count = sum(w * n for w, (_, n) in zip(weights, seen, strict=False))
        means.append(total / count)
    return means


def sampled(x: Tensor, number: int, turn: int) -> Tensor:
    """Every (B / number)-th image, beginning one later each time."""
    step = len(x) // number
    return x[turn % step :: step]


@pytest.mark.parametrize("name", LAYERS)
def test_nothing_asked_for_is_exact(name: str) -> None:
    dtype = torch.float32
    _, none = layers(name, None, dtype)
    asked = trainact.TrAct(copy.deepcopy(trainact.remove(copy.deepcopy(none))), LAM)
    asked.estimate = Estimate(every=3)
    asked.estimate = Estimate()
    assert asked.estimate is None
    for x in inputs(name, 3, dtype):
        assert torch.equal(gradient(none, x), gradient(asked, x))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every(name: str, dtype: torch.dtype) -> None:
    plain, layer = layers(name, Estimate(every=3), dtype)
    batches = inputs(name, dtype=dtype)
    for t, x in enumerate(batches):
        refreshed = batches[3 * (t // 3)]
        truth = expected(plain, x, gram(plain, refreshed))
        rtol = ORACLE_RTOL
        if dtype == torch.float32:
            # The gradient has parts outside the span of the rows of the refresh.
            bounds = [solve_rtol(dtype, g, LAM) for g in oracle_rows(plain, refreshed)]
            rtol = max(bounds)
        assert relative_error(gradient(layer, x), truth) < rtol, t


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_decay(name: str, decay: float) -> None:
    plain, layer = layers(name, Estimate(decay=decay))
    batches = inputs(name)
    means = running_grams(plain, batches, decay)
    for x, mean in zip(batches, means, strict=True):
        assert (
            relative_error(gradient(layer, x), expected(plain, x, mean)) < ORACLE_RTOL
        )


def test_decay_weighs_by_rows() -> None:
    plain, layer = layers("linear", Estimate(decay=0.5))
    batches = [
        x[:rows] for x, rows in zip(inputs("linear"), (16, 3, 9, 1), strict=False)
    ]
    means = running_grams(plain, batches, 0.5)
    for x, mean in zip(batches, means, strict=True):
        assert (
            relative_error(gradient(layer, x), expected(plain, x, mean)) < ORACLE_RTOL
        )


WITH_BATCHES_OF_FOUR = {
    "linear": lambda: torch.randn(16, 7),
    "linear, dual": lambda: torch.randn(4, 40),
    "conv2d, groups": lambda: torch.randn(4, 4, 8, 8),
    "conv2d, dual": lambda: torch.randn(4, 3, 8, 8),
    "conv3d, circular": lambda: torch.randn(8, 2, 4, 4, 4),
}


@pytest.mark.parametrize("name", WITH_BATCHES_OF_FOUR)
@pytest.mark.parametrize("share", [2, 4])
def test_fraction(name: str, share: int) -> None:
    plain, layer = layers(name, Estimate(fraction=1 / share))
    for turn in range(5):
        x = WITH_BATCHES_OF_FOUR[name]().double()
        truth = expected(plain, x, gram(plain, sampled(x, len(x) // share, turn)))
        assert relative_error(gradient(layer, x), truth) < ORACLE_RTOL, turn


def test_all_together() -> None:
    plain, layer = layers("conv2d, groups", Estimate(2, 0.5, 0.25))
    batches = [(1 + t) * torch.randn(4, 4, 8, 8).double() for t in range(CALLS)]
    parts = [sampled(x, 1, turn) for turn, x in enumerate(batches[::2])]
    means = running_grams(plain, parts, 0.5)
    for t, x in enumerate(batches):
        truth = expected(plain, x, means[t // 2])
        assert relative_error(gradient(layer, x), truth) < ORACLE_RTOL, t


@pytest.mark.parametrize(("total", "number"), [(8, 2), (10, 4), (7, 3), (5, 1), (9, 8)])
def test_samples_are_even_and_miss_nobody(total: int, number: int) -> None:
    x = torch.arange(float(total))[:, None]
    counts = torch.zeros(total)
    before = torch.get_rng_state()
    for turn in range(total):
        chosen = sample(x, Geometry(x.shape[-1]), number / total, turn)[:, 0].long()
        assert len(chosen) == number
        gaps = torch.diff(torch.cat([chosen, chosen[:1] + total]))
        assert gaps.max() - gaps.min() <= 1
        assert gaps.min() >= 1
        counts[chosen] += 1
    assert counts.tolist() == [number] * total
    assert torch.equal(torch.get_rng_state(), before)


def test_samples_are_whole_images_and_never_none() -> None:
    tokens = torch.randn(4, 5, 7)
    assert sample(tokens, Geometry(7), 0.5, 0).shape == (2, 5, 7)
    assert sample(tokens, Geometry(7), 0.01, 0).shape == (1, 5, 7)
    vector, image = torch.randn(7), torch.randn(3, 8, 8)
    assert sample(vector, Geometry(7), 0.5, 0) is vector
    geometry = layer_geometry(nn.Conv2d(3, 4, 3))
    assert sample(image, geometry, 0.5, 0) is image
    assert sample(image[None], geometry, 0.5, 0).shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, r"every=0 is not a whole number .*: 1 makes"),
        ({"every": 2.5}, r"every=2.5 is not"),
        ({"every": True}, r"every=True is not"),
        ({"decay": 1.0}, r"decay=1.0 is not in \[0, 1\): 0 averages nothing"),
        ({"decay": -0.1}, r"decay=-0.1"),
        ({"decay": float("nan")}, r"decay=nan"),
        ({"fraction": 0}, r"fraction=0 is not in \(0, 1\]: 1 takes every image"),
        ({"fraction": 1.5}, r"fraction=1.5"),
        ({"fraction": "half"}, r"fraction='half'"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Estimate(**settings)


def test_something_else_is_refused_before_anything_changes() -> None:
    plain = nn.Linear(3, 2)
    for call in (partial(trainact.TrAct, plain), partial(trainact.apply, plain)):
        with pytest.raises(TypeError, match=r"estimate=4 is not a trainact.Estimate"):
            call(estimate=4)
    assert type(plain) is nn.Linear


def test_it_is_shown_and_each_layer_has_its_own() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    trainact.apply(model, layer=["0", "2"], estimate=Estimate(every=4))
    assert "estimate=Estimate(every=4, decay=0.0, fraction=1.0)" in repr(model[0])
    assert model[0].estimate == Estimate(every=4)
    assert model[0].tract.statistics is not model[2].tract.statistics


@pytest.mark.parametrize("name", FEW)
def test_state_dicts_are_those_of_the_plain_layer(name: str) -> None:
    plain, layer = layers(name, Estimate(2, 0.5, 0.5))
    gradients(layer, inputs(name, 3))
    assert layer.state_dict().keys() == plain.state_dict().keys()
    layer.load_state_dict(plain.state_dict())


def saved_and_loaded(layer: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("name", [*FEW, "std conv"])
@pytest.mark.parametrize("copied", [copy.deepcopy, saved_and_loaded])
@pytest.mark.parametrize("estimate", [Estimate(every=3), Estimate(2, 0.5)])
def test_copies_go_on_by_themselves(
    name: str, copied: Callable[[nn.Module], nn.Module], estimate: Estimate
) -> None:
    _, layer = layers(name, estimate)
    first, *others, last = inputs(name, 5)
    gradient(layer, first)
    early = copied(layer)
    for x in others:
        assert torch.equal(gradient(layer, x), gradient(early, x))
    late = copied(layer)
    gradient(late, 100 * last)
    assert torch.equal(gradient(layer, last), gradient(early, last))


def another_dtype(layer: nn.Module) -> None:
    layer.float()


def another_stride(layer: nn.Module) -> None:
    layer.stride = (2, 2)


def another_estimate(layer: nn.Module) -> None:
    layer.estimate = Estimate(every=99, decay=0.25)


def another_sync(layer: nn.Module) -> None:
    layer.sync = False


@pytest.mark.parametrize(
    "change", [another_dtype, another_stride, another_estimate, another_sync]
)
def test_what_was_kept_is_dropped(change: Callable[[nn.Module], None]) -> None:
    _, layer = layers("conv2d, groups", Estimate(every=99, decay=0.5))
    first, second = inputs("conv2d, groups", 2)
    gradient(layer, first)
    change(layer)
    second = second.to(layer.weight.dtype)
    fresh = copy.deepcopy(layer)
    fresh.estimate = None
    error = relative_error(gradient(layer, second), gradient(fresh, second))
    assert error < (FLOAT32_PROMISE if change is another_dtype else ORACLE_RTOL)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("estimate", [Estimate(every=9), Estimate(9, 0.5)])
def test_another_lam_counts_at_once(name: str, estimate: Estimate) -> None:
    plain, layer = layers(name, estimate)
    first, second, third = inputs(name, 3)
    gradient(layer, first)
    for lam, x in ((0.7, second), (LAM, third)):
        layer.lam = lam
        truth = expected(plain, x, gram(plain, first), lam)
        assert relative_error(gradient(layer, x), truth) < ORACLE_RTOL


def spoiled(x: Tensor, value: float) -> Tensor:
    x = x.clone()
    x.view(-1)[3] = value
    return x


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["linear", "conv2d, groups"])
def test_non_finite_input_is_not_in_the_running_mean(name: str, value: float) -> None:
    plain, layer = layers(name, Estimate(decay=0.5))
    first, second, third, fourth = inputs(name, 4)
    bad = spoiled(second, value)
    found = gradients(layer, [first, bad, third, fourth])
    assert not found[1].isfinite().all()
    means = running_grams(plain, [first, third, fourth], 0.5)
    for x, mean, grad in zip(
        (first, third, fourth), means, (found[0], *found[2:]), strict=True
    ):
        assert relative_error(grad, expected(plain, x, mean)) < ORACLE_RTOL


@pytest.mark.parametrize("name", ["linear", "conv2d, groups"])
def test_non_finite_input_is_not_used_again(name: str) -> None:
    plain, layer = layers(name, Estimate(every=2))
    first, second, third, fourth = inputs(name, 4)
    gradients(layer, [first, second])
    assert not gradient(layer, spoiled(third, float("nan"))).isfinite().all()
    truth = expected(plain, fourth, gram(plain, first))
    assert relative_error(gradient(layer, fourth), truth) < ORACLE_RTOL


@pytest.mark.parametrize("name", ["linear", "conv2d, groups"])
def test_non_finite_input_at_the_very_first_call(name: str) -> None:
    plain, layer = layers(name, Estimate(every=2))
    first, second, third, _ = inputs(name, 4)
    assert not gradient(layer, spoiled(first, float("nan"))).isfinite().all()
    # Until the next refresh the input counts as white.
    white = np.broadcast_to(
        np.eye(gram(plain, second).shape[-1]), gram(plain, second).shape
    )
    for x, gram_GPP in ((second, white), (third, gram(plain, third))):
        truth = expected(plain, x, gram_GPP)
        assert relative_error(gradient(layer, x), truth) < ORACLE_RTOL


def test_non_finite_rows_of_the_dual_form_count_as_zeros() -> None:
    plain, layer = layers("linear, dual", Estimate(every=2))
    first, second = inputs("linear, dual", 2)
    bad = spoiled(first, float("nan"))
    assert not gradient(layer, bad).isfinite().all()
    kept = torch.where(bad.isfinite().all(-1, keepdim=True), bad, 0)
    truth = expected(plain, second, gram(plain, kept))
    assert relative_error(gradient(layer, second), truth) < ORACLE_RTOL


def test_a_grad_scaler_skips_the_step_and_training_goes_on() -> None:
    torch.manual_seed(0)
    layer = trainact.TrAct(nn.Linear(7, 3), estimate=Estimate(2, 0.9, 0.5))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    for t, x in enumerate(torch.randn(9, 16, 7)):
        before = layer.weight.detach().clone()
        is_bad = t in (0, 4)
        optimizer.zero_grad()
        batch = spoiled(x, float("inf")) if is_bad else x
        with torch.autocast("cpu", torch.bfloat16):
            loss = layer(batch).float().square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(layer.weight, before) == is_bad
        assert layer.weight.isfinite().all()


class RefusesToWait(TorchDispatchMode):
    """Raises where a value on the device is made a Python number."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in str(func), func
        assert "nonzero" not in str(func), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("estimate", [Estimate(every=2), Estimate(2, 0.5, 0.5)])
def test_no_number_is_read_back(name: str, estimate: Estimate) -> None:
    _, layer = layers(name, estimate, torch.float32)
    batches = inputs(name, 4, torch.float32)
    gradients(layer, batches)  # λ is looked at in the first factorisation of a shape
    with RefusesToWait():
        gradients(layer, batches)


def test_the_dispatch_mode_sees_a_wait() -> None:
    with RefusesToWait(), pytest.raises(AssertionError):
        torch.randn(3).sum().item()


@pytest.mark.filterwarnings("ignore:trainact:UserWarning")  # it trains in eval mode
@pytest.mark.parametrize("name", FEW)
def test_silent_passes(name: str) -> None:
    estimate = Estimate(3, 0.5)
    _, layer = layers(name, estimate)
    _, truth = layers(name, estimate)
    truth.load_state_dict(layer.state_dict())
    for x in inputs(name):
        with torch.no_grad():
            layer(7 * x)
        layer.eval()
        gradient(layer, 7 * x)
        layer.train()
        layer.requires_grad_(False)
        layer(7 * x)
        layer.requires_grad_(True)
        layer(7 * x[:0])
        assert torch.equal(gradient(layer, x), gradient(truth, x))


REGIONS = {
    "not reentrant": partial(checkpoint, use_reentrant=False),
    "reentrant": partial(checkpoint, use_reentrant=True),
}


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("estimate", [Estimate(every=3), Estimate(2, 0.5)])
def test_checkpointing(name: str, region: str, calls: int, estimate: Estimate) -> None:
    _, layer = layers(name, estimate)
    twin = copy.deepcopy(layer)

    def run(module: nn.Module, x: Tensor) -> Tensor:
        return torch.stack([module(x * (1 + call)) for call in range(calls)])

    for x in inputs(name):
        x.requires_grad_()  # for the reentrant kind
        found = []
        for z, module in (
            (REGIONS[region](run, layer, x), layer),
            (run(twin, x), twin),
        ):
            module.zero_grad()
            z.backward(gradient_like(z))
            found.append(module.weight.grad.clone())
        assert relative_error(*found) < ORACLE_RTOL


def test_calls_count_in_the_order_of_their_gradients() -> None:
    plain, layer = layers("conv2d, groups", Estimate(every=1, decay=0.5))
    batches = inputs("conv2d, groups", 3)
    outputs = [layer(x) for x in batches]
    layer(100 * batches[0])  # never differentiated
    means = running_grams(plain, batches[::-1], 0.5)
    for x, z, mean in zip(batches[::-1], outputs[::-1], means, strict=True):
        layer.zero_grad()
        z.backward(gradient_like(z))
        assert relative_error(layer.weight.grad, expected(plain, x, mean)) < ORACLE_RTOL


def test_threads_share_an_estimate() -> None:
    """As replicas of `torch.nn.DataParallel` do."""
    _, layer = layers("linear", Estimate(every=3))
    errors: list[Exception] = []

    def work() -> None:
        try:
            for x in 20 * inputs("linear"):
                z = layer(x)
                torch.autograd.grad(z, layer.weight, gradient_like(z))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_a_recomputed_call_has_its_own_statistics() -> None:
    """Two calls, checkpointed in two ways: one runs again while the other waits."""
    _, layer = layers("linear", Estimate(fraction=0.999))
    first, second = inputs("linear", 2)
    second.requires_grad_()
    z = [
        checkpoint(layer, x, use_reentrant=reentrant)
        for x, reentrant in ((first, False), (second, True))
    ]
    (0 * z[0].sum() + z[1].square().sum()).backward()
    plain, _ = layers("linear", Estimate())
    truth = oracle_gradient(plain, second.detach(), 2 * z[1].detach(), LAM)
    assert relative_error(layer.weight.grad, truth) < ORACLE_RTOL


@pytest.mark.parametrize("name", FEW)
def test_the_memory_of_an_input_may_be_used_again(name: str) -> None:
    plain, layer = layers(name, Estimate(every=2))
    first, second = inputs(name, 2)
    kept = gram(plain, first)
    gradient(layer, first)
    first.fill_(7.0)
    truth = expected(plain, second, kept)
    assert relative_error(gradient(layer, second), truth) < ORACLE_RTOL


def test_a_gradient_penalty() -> None:
    plain, layer = layers("linear", Estimate(every=2))
    first, x = inputs("linear", 2)
    gradient(layer, first)
    x.requires_grad_()
    for module in (layer, plain):
        module.zero_grad()
        (slope,) = torch.autograd.grad(module(x).tanh().sum(), x, create_graph=True)
        slope.square().sum().backward()
    system = gram(plain, first)[0] + LAM * np.eye(7)
    truth = np.linalg.solve(system, plain.weight.grad.numpy().T).T
    assert relative_error(layer.weight.grad, truth) < ORACLE_RTOL


def test_deferred_is_refused() -> None:
    model = trainact.apply(nn.Sequential(nn.Linear(3, 2)), estimate=Estimate(every=2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    message = r"layer '0' has estimate=Estimate\(every=2.*estimate = None"
    with pytest.raises(ValueError, match=message), trainact.deferred(model, optimizer):
        pass
    model[0].estimate = None
    inside = pytest.raises(RuntimeError, match=r"leave trainact.deferred")
    with trainact.deferred(model, optimizer), inside:
        model[0].estimate = Estimate(every=2)


def test_transforms_are_refused() -> None:
    _, layer = layers("linear", Estimate(every=2))
    (x,) = inputs("linear", 1)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(p: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(layer, p, (x,)).sum()

    with pytest.raises(RuntimeError, match=r"torch.func.*layer.estimate = None"):
        torch.func.grad(loss)(parameters)
    leaves = {name: p.clone().requires_grad_() for name, p in parameters.items()}
    loss(leaves).backward()
    z = layer(x)
    z.sum().backward()
    assert relative_error(leaves["weight"].grad, layer.weight.grad) < ORACLE_RTOL


# Dynamo looks at the .grad of whatever a graph starts with.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("name", ["linear, dual", "conv2d, groups", "std conv"])
def test_compiled_code_does_not_freeze_the_factor(name: str) -> None:
    torch._dynamo.reset()
    _, layer = layers(name, Estimate(2, 0.5), torch.float32)
    twin = copy.deepcopy(layer)
    compiled = torch.compile(layer, backend="aot_eager")
    for x in inputs(name, 5, torch.float32):
        twin.zero_grad()
        layer.zero_grad()
        for module in (compiled, twin):
            z = module(x)
            z.backward(gradient_like(z))
        found = [dict(m.named_parameters()) for m in (layer, twin)]
        for key, parameter in found[0].items():
            error = relative_error(parameter.grad, found[1][key].grad)
            assert error < FLOAT32_PROMISE, key
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(layer, backend="aot_eager", fullgraph=True)(x)
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ODD)
def test_layers_of_a_class_of_their_own(name: str) -> None:
    case = ODD[name]
    plain, layer = layers(name, Estimate(every=2))
    (x,) = inputs(name, 1)
    layer(x).sum().backward()
    layer.zero_grad()
    z = layer(3 * x)  # three times the gradient, but the A of the call before
    z.backward(gradient_like(z))
    for key, truth in case.gradients(plain, x, gradient_like(z), LAM).items():
        error = relative_error(layer.get_parameter(key).grad, 3 * truth)
        assert error < ORACLE_RTOL, key
