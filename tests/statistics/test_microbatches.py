"""`deferred`: the micro-batches of a step are one batch, for any optimizer."""

from __future__ import annotations

import copy
import pickle
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.optim.lookahead import Lookahead
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

import trainact
from tests.distributed import problems
from tests.sam import Sam
from tests.tolerances import FLOAT32_PROMISE, ORACLE_RTOL, relative_error

BATCH = 12
EQUAL, UNEQUAL = [4, 4, 4], [1, 0, 8, 3]
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.02, momentum=0.9),
    "adam": lambda ps: torch.optim.Adam(ps, lr=1e-3),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=1e-3),
}


def setting(
    kind: str, dtype: torch.dtype = torch.float64, optimizer: str = "sgd"
) -> tuple[nn.Module, torch.optim.Optimizer, Tensor, Tensor]:
    model = problems.make_model(kind, dtype)
    x, y = problems.make_batch(kind, dtype, EQUAL)
    return model, OPTIMIZERS[optimizer](model.parameters()), x, y


def backward(model: nn.Module, x: Tensor, y: Tensor, sizes: list[int]) -> None:
    for part_x, part_y in zip(x.split(sizes), y.split(sizes), strict=True):
        problems.loss_of(model, part_x, part_y, len(x)).backward()


def train(
    kind: str,
    dtype: torch.dtype,
    optimizer_name: str,
    sizes: list[int] | None,
    clip: float | None = None,
) -> list[Tensor]:
    """Weights after 5 steps; on the whole batch if there are no sizes."""
    model, optimizer, x, y = setting(kind, dtype, optimizer_name)

    def steps(precondition: Callable[[], None]) -> None:
        for _ in range(5):
            backward(model, x, y, sizes or [len(x)])
            precondition()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()

    if sizes is None:
        steps(lambda: None)
    else:
        with trainact.deferred(model, optimizer) as step:
            steps(step.precondition if clip is not None else lambda: None)
    return [p.detach() for p in model.parameters()]


def worst(found: list[Tensor], truth: list[Tensor]) -> float:
    return max(relative_error(a, b) for a, b in zip(found, truth, strict=True))


@pytest.mark.parametrize("sizes", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [*((kind, "sgd") for kind in problems.FIRST), ("conv", "adam"), ("conv", "adamw")],
)
def test_micro_batches_are_the_batch(
    kind: str, optimizer: str, sizes: list[int]
) -> None:
    truth = train(kind, torch.float64, optimizer, None)
    assert worst(train(kind, torch.float64, optimizer, sizes), truth) < ORACLE_RTOL


@pytest.mark.parametrize("kind", problems.FIRST)
def test_micro_batches_are_the_batch_in_float32(kind: str) -> None:
    truth = train(kind, torch.float32, "sgd", None)
    assert worst(train(kind, torch.float32, "sgd", UNEQUAL), truth) < FLOAT32_PROMISE


@pytest.mark.parametrize("kind", ["conv", "wide linear, few rows"])
def test_clipping_what_is_stepped_with(kind: str) -> None:
    truth = train(kind, torch.float64, "sgd", None, clip=0.01)
    found = train(kind, torch.float64, "sgd", UNEQUAL, clip=0.01)
    assert worst(found, truth) < ORACLE_RTOL


def whole_gradient(kind: str = "conv", dtype: torch.dtype = torch.float64) -> Tensor:
    model, _, x, y = setting(kind, dtype)
    backward(model, x, y, [len(x)])
    return model[0].weight.grad


def plain_gradient(kind: str = "conv") -> Tensor:
    model, _, x, y = setting(kind)
    backward(trainact.remove(model), x, y, [len(x)])
    return model[0].weight.grad


def test_before_the_step_gradients_are_raw() -> None:
    model, optimizer, x, y = setting("conv")
    weight = model[0].weight
    with trainact.deferred(model, optimizer) as step:
        backward(model, x, y, EQUAL)
        assert relative_error(weight.grad, plain_gradient()) < ORACLE_RTOL
        step.precondition()
        assert relative_error(weight.grad, whole_gradient()) < ORACLE_RTOL
        step.precondition()
        optimizer.step()
        assert relative_error(weight.grad, whole_gradient()) < ORACLE_RTOL, "twice"


def test_a_step_after_the_block_sees_tract_gradients() -> None:
    model, optimizer, x, y = setting("conv")
    with trainact.deferred(model, optimizer):
        backward(model, x, y, EQUAL)
    assert relative_error(model[0].weight.grad, whole_gradient()) < ORACLE_RTOL


@pytest.mark.parametrize("spelling", ["positional", "keyword"])
def test_a_closure_is_preconditioned_after_it_has_run(spelling: str) -> None:
    model, optimizer, x, y = setting("conv")

    def closure() -> float:
        optimizer.zero_grad()
        backward(model, x, y, EQUAL)
        return 7.0

    with trainact.deferred(model, optimizer):
        for _ in range(5):
            if spelling == "positional":
                assert optimizer.step(closure) == 7.0
            else:
                assert optimizer.step(closure=closure) == 7.0
    truth = train("conv", torch.float64, "sgd", None)
    assert worst([p.detach() for p in model.parameters()], truth) < ORACLE_RTOL


def test_a_closure_that_runs_many_times() -> None:
    def train_lbfgs(sizes: list[int], defers: bool) -> list[Tensor]:
        model, _, x, y = setting("linear")
        optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)

        def closure() -> Tensor:
            optimizer.zero_grad()
            backward(model, x, y, sizes)
            with torch.no_grad():
                return problems.loss_of(model, x, y, len(x))

        if defers:
            with trainact.deferred(model, optimizer):
                optimizer.step(closure)
        else:
            optimizer.step(closure)
        return [p.detach() for p in model.parameters()]

    truth = train_lbfgs([BATCH], defers=False)
    assert worst(train_lbfgs(UNEQUAL, defers=True), truth) < ORACLE_RTOL


def test_zeros_in_place_of_none() -> None:
    model, optimizer, x, y = setting("conv")
    with trainact.deferred(model, optimizer):
        for _ in range(5):
            backward(model, x, y, EQUAL)
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
    truth = train("conv", torch.float64, "sgd", None)
    assert worst([p.detach() for p in model.parameters()], truth) < ORACLE_RTOL
    assert "zero_grad" not in vars(optimizer)


def test_what_the_gradient_held_before_stays() -> None:
    """Before the block, and after a step without zero_grad: as outside of it."""
    model, optimizer, x, y = setting("conv")
    weight = model[0].weight
    backward(model, x, y, [BATCH])
    with trainact.deferred(model, optimizer) as step:
        backward(model, x, y, EQUAL)
        step.precondition()
        assert relative_error(weight.grad, 2 * whole_gradient()) < ORACLE_RTOL
        backward(model, x, y, EQUAL)
        step.precondition()
        assert relative_error(weight.grad, 3 * whole_gradient()) < ORACLE_RTOL
        model.zero_grad()
        backward(model, x, y, EQUAL)
    assert relative_error(weight.grad, whole_gradient()) < ORACLE_RTOL


def penalty(weight: Tensor) -> Tensor:
    return 3 * weight.square().sum()


@pytest.mark.parametrize("apart", [False, True], ids=["in the loss", "apart"])
def test_a_penalty_on_the_weight_is_not_preconditioned(apart: bool) -> None:
    model, optimizer, x, y = setting("conv")
    weight = model[0].weight
    seen: list[Tensor] = []
    weight.register_hook(seen.append)
    with trainact.deferred(model, optimizer) as step:
        for px, py in zip(x.split(EQUAL), y.split(EQUAL), strict=True):
            loss = problems.loss_of(model, px, py, len(x))
            if apart:
                penalty(weight).backward()
            (loss if apart else loss + penalty(weight)).backward()
        truth = plain_gradient() + len(EQUAL) * 6 * weight.detach()
        assert relative_error(sum(seen), truth) < ORACLE_RTOL, "a hook of the user's"
        step.precondition()
    truth = whole_gradient() + len(EQUAL) * 6 * weight.detach()
    assert relative_error(weight.grad, truth) < ORACLE_RTOL


def test_a_penalty_is_told_apart_after_rescaling() -> None:
    model, optimizer, x, y = setting("conv", torch.float32)
    weight = model[0].weight
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    with trainact.deferred(model, optimizer) as step:
        loss = problems.loss_of(model, x, y, len(x)) + penalty(weight)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        weight.grad /= 3
        step.precondition()
        truth = (whole_gradient() + 6 * weight.detach()) / 3
        assert relative_error(weight.grad, truth) < FLOAT32_PROMISE
        optimizer.zero_grad()
        (problems.loss_of(model, x, y, len(x)) + penalty(weight)).backward()
        weight.grad.clamp_(-0.01, 0.01)
        with pytest.raises(RuntimeError, match="did not come through the layer"):
            step.precondition()
        optimizer.zero_grad()


def test_a_look_with_autograd_grad_does_not_count() -> None:
    model, optimizer, x, y = setting("conv")
    weight = model[0].weight
    plain = plain_gradient()
    with trainact.deferred(model, optimizer) as step:
        problems.loss_of(model, x[:4], y[:4], len(x)).backward()
        loss = problems.loss_of(model, x[4:], y[4:], len(x))
        (looked,) = torch.autograd.grad(loss, weight, retain_graph=True)
        assert relative_error(looked + weight.grad, plain) < ORACLE_RTOL
        loss.backward()
        step.precondition()
        assert relative_error(weight.grad, whole_gradient()) < ORACLE_RTOL


@pytest.mark.parametrize("first", ["backward", "nothing"])
def test_a_gradient_added_by_hand_is_refused(first: str) -> None:
    model, optimizer, x, y = setting("conv")
    with trainact.deferred(model, optimizer) as step:
        model[0].weight.grad = None
        if first == "backward":
            backward(model, x, y, [BATCH])
        loss = problems.loss_of(model, x, y, len(x))
        (looked,) = torch.autograd.grad(loss, model[0].weight)
        if model[0].weight.grad is None:
            model[0].weight.grad = looked
        else:
            model[0].weight.grad += looked
        with pytest.raises(RuntimeError, match="Accumulate with backward"):
            step.precondition()
        optimizer.zero_grad()


@pytest.mark.parametrize("wrapper", ["lookahead", "sam"])
def test_an_optimizer_inside_another(wrapper: str) -> None:
    def train_wrapped(sizes: list[int], defers: bool) -> list[Tensor]:
        model, inner, x, y = setting("conv")
        outer: Any = Lookahead(inner, k=2) if wrapper == "lookahead" else Sam(inner)

        def steps(precondition: Callable[[], None]) -> None:
            for _ in range(5):
                backward(model, x, y, sizes)
                if wrapper == "sam":
                    precondition()
                    outer.climb()
                    backward(model, x, y, sizes)
                outer.step()
                outer.zero_grad()

        if defers:
            with trainact.deferred(model, outer) as step:
                steps(step.precondition)
        else:
            steps(lambda: None)
        return [p.detach() for p in model.parameters()]

    truth = train_wrapped([BATCH], defers=False)
    assert worst(train_wrapped(UNEQUAL, defers=True), truth) < ORACLE_RTOL


def test_a_closure_that_brings_the_last_micro_batch() -> None:
    """As Lightning's: those before it have been accumulated already."""
    model, optimizer, x, y = setting("conv")

    def closure() -> None:
        problems.loss_of(model, x[8:], y[8:], len(x)).backward()

    with trainact.deferred(model, optimizer):
        problems.loss_of(model, x[:8], y[:8], len(x)).backward()
        optimizer.step(closure)
    assert relative_error(model[0].weight.grad, whole_gradient()) < ORACLE_RTOL


def climb_with_sam(optimizer: torch.optim.Optimizer) -> None:
    Sam(optimizer).climb()


def step_without_hooks(optimizer: torch.optim.Optimizer) -> None:
    with torch.no_grad():
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.sub_(parameter.grad)
    optimizer.zero_grad()


@pytest.mark.parametrize("take_step", [climb_with_sam, step_without_hooks])
@pytest.mark.parametrize("then", ["zero_grad", "forward", "leave"])
def test_a_step_with_the_ordinary_gradient_is_noticed(
    take_step: Callable[[torch.optim.Optimizer], None], then: str
) -> None:
    model, optimizer, x, y = setting("conv")
    zero_grad = optimizer.zero_grad

    def train_once() -> None:
        with trainact.deferred(model, optimizer):
            backward(model, x, y, EQUAL)
            if then != "zero_grad":
                optimizer.zero_grad = lambda: None
            take_step(optimizer)
            if then == "forward":
                model(x)

    with pytest.raises(RuntimeError, match=r"Call\s+precondition"):
        train_once()
    optimizer.zero_grad = zero_grad


def test_an_optimizer_that_steps_inside_the_backward() -> None:
    model, optimizer, x, y = setting("conv")
    for parameter in model.parameters():
        own = torch.optim.SGD([parameter], lr=0.1)
        parameter.register_post_accumulate_grad_hook(lambda _, own=own: own.step())
    with (
        pytest.raises(RuntimeError, match="was changed before"),
        trainact.deferred(model, optimizer),
    ):
        backward(model, x, y, EQUAL)


def test_a_call_from_outside_the_block_is_as_it_was_made() -> None:
    model, optimizer, x, y = setting("conv")
    loss = problems.loss_of(model, x, y, len(x))
    with trainact.deferred(model, optimizer) as step:
        loss.backward()
        step.precondition()
    assert relative_error(model[0].weight.grad, whole_gradient()) < ORACLE_RTOL


def test_a_weight_in_place_of_the_optimizer_s_is_refused() -> None:
    model, optimizer, x, _ = setting("conv")
    parameters = {n: p * 1.0 for n, p in model.named_parameters()}
    with (
        trainact.deferred(model, optimizer),
        pytest.raises(RuntimeError, match="another tensor"),
    ):
        torch.func.functional_call(model, parameters, (x,))


class Broadcast(torch.autograd.Function):
    """As `torch.nn.DataParallel` hands weights to its replicas."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> tuple[Tensor, Tensor]:
        del ctx
        return weight.clone(), weight.clone()

    @staticmethod
    def backward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        del ctx
        return first + second


def test_replicas_of_data_parallel() -> None:
    model, optimizer, x, y = setting("conv")
    layer = model[0]
    with trainact.deferred(model, optimizer):
        outputs = []
        copies = Broadcast.apply(layer.weight)
        for part, weight in zip(x.split([4, 8]), copies, strict=True):
            replica = layer._replicate_for_data_parallel()
            replica.weight, replica.bias = weight, layer.bias
            outputs.append(replica(part))
        problems.loss_of(model[1:], torch.cat(outputs), y, len(x)).backward()
    assert relative_error(layer.weight.grad, whole_gradient()) < ORACLE_RTOL


def test_a_failed_entry_leaves_everything_as_it_was() -> None:
    model, optimizer, x, y = setting("conv")
    not_an_optimizer: Any = types.SimpleNamespace(param_groups=[])
    with (
        pytest.raises(AttributeError, match="zero_grad"),
        trainact.deferred(model, [optimizer, not_an_optimizer]),
    ):
        pass
    assert "zero_grad" not in vars(optimizer)
    backward(model, x, y, [BATCH])
    optimizer.step()
    assert relative_error(model[0].weight.grad, whole_gradient()) < ORACLE_RTOL


def test_remove_inside_is_refused() -> None:
    model, optimizer, x, y = setting("conv")
    with trainact.deferred(model, optimizer):
        backward(model, x, y, EQUAL)
        with pytest.raises(ValueError, match="leave that block first"):
            trainact.remove(model)
    assert relative_error(model[0].weight.grad, whole_gradient()) < ORACLE_RTOL


def test_zeroing_between_forward_and_backward() -> None:
    """As torchvision's reference loop, Lightning and many tutorials do it."""
    model, optimizer, x, y = setting("conv")
    with trainact.deferred(model, optimizer):
        for _ in range(5):
            for k, (px, py) in enumerate(
                zip(x.split(EQUAL), y.split(EQUAL), strict=True)
            ):
                loss = problems.loss_of(model, px, py, len(x))
                if k == 0:
                    optimizer.zero_grad()
                loss.backward()
            optimizer.step()
    truth = train("conv", torch.float64, "sgd", None)
    assert worst([p.detach() for p in model.parameters()], truth) < ORACLE_RTOL


@pytest.mark.parametrize("kind", ["conv", "wide linear, few rows"])
def test_a_dropped_window_leaves_nothing_behind(kind: str) -> None:
    model, optimizer, x, y = setting(kind)
    with trainact.deferred(model, optimizer) as step:
        backward(model, torch.full_like(x, torch.inf), y, EQUAL)
        model.zero_grad()
        backward(model, 5 * x, y, EQUAL)
        model.zero_grad(set_to_none=False)
        backward(model, 3 * x, y, EQUAL)
        for parameter in model.parameters():
            parameter.grad = None
        backward(model, x, y, UNEQUAL)
        step.precondition()
    assert relative_error(model[0].weight.grad, whole_gradient(kind)) < ORACLE_RTOL


def test_a_forward_without_a_backward_does_not_count() -> None:
    model, optimizer, x, y = setting("conv")
    with trainact.deferred(model, optimizer) as step:
        model(5 * x)
        backward(model, x, y, [4, 8])
        with torch.no_grad():
            model(5 * x)
        step.precondition()
    assert relative_error(model[0].weight.grad, whole_gradient()) < ORACLE_RTOL


@pytest.mark.parametrize("poisoned", ["loss", "input"])
def test_a_skipped_step_leaves_nothing_behind(poisoned: str) -> None:
    def run(sizes: list[int], defers: bool) -> tuple[list[Tensor], float]:
        model, optimizer, x, y = setting("conv", torch.float32)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        bad = x.clone()
        bad[5] = torch.inf

        def steps() -> None:
            for number in range(4):
                given = bad if poisoned == "input" and number == 1 else x
                factor = torch.inf if poisoned == "loss" and number == 1 else 1.0
                for px, py in zip(given.split(sizes), y.split(sizes), strict=True):
                    loss = problems.loss_of(model, px, py, len(x)) * factor
                    scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()

        if defers:
            with trainact.deferred(model, optimizer):
                steps()
        else:
            steps()
        return [p.detach() for p in model.parameters()], scaler.get_scale()

    truth, scale = run([BATCH], defers=False)
    found, found_scale = run(EQUAL, defers=True)
    assert found_scale == scale == 4.0, "exactly one step was skipped"
    assert worst(found, truth) < FLOAT32_PROMISE


def test_unscale_then_precondition_then_clip() -> None:
    model, optimizer, x, y = setting("conv", torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    with trainact.deferred(model, optimizer) as step:
        for _ in range(5):
            for px, py in zip(x.split(EQUAL), y.split(EQUAL), strict=True):
                scaler.scale(problems.loss_of(model, px, py, len(x))).backward()
            scaler.unscale_(optimizer)
            step.precondition()
            nn.utils.clip_grad_norm_(model.parameters(), 0.01)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    truth = train("conv", torch.float32, "sgd", None, clip=0.01)
    assert worst([p.detach() for p in model.parameters()], truth) < FLOAT32_PROMISE


def test_an_exception_detaches_everything() -> None:
    model, optimizer, x, y = setting("conv")

    def fail() -> None:
        with trainact.deferred(model, optimizer):
            backward(model, x, y, EQUAL)
            msg = "interrupted"
            raise KeyError(msg)

    with pytest.raises(KeyError, match="interrupted"):
        fail()
    model.zero_grad()
    backward(model, x, y, [len(x)])
    optimizer.step()
    assert relative_error(model[0].weight.grad, whole_gradient()) < ORACLE_RTOL
    assert "zero_grad" not in vars(optimizer)


def test_entering_twice_is_refused_and_harms_nothing() -> None:
    model, optimizer, x, y = setting("conv")
    with trainact.deferred(model, optimizer) as step:
        for again in (step, trainact.deferred(model, optimizer)):
            with pytest.raises(ValueError, match="in a trainact"):
                again.__enter__()
        backward(model, x, y, EQUAL)
        optimizer.step()
    assert relative_error(model[0].weight.grad, whole_gradient()) < ORACLE_RTOL
    with step:
        pass
    assert not model[0].tract.is_deferred


def test_what_is_not_there_is_refused() -> None:
    plain = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"call trainact\.apply first"):
        trainact.deferred(plain, optimizer)
    other = trainact.TrAct(nn.Linear(2, 2))
    with (
        pytest.raises(ValueError, match="not in the given optimizer"),
        trainact.deferred(other, optimizer),
    ):
        pass


def test_two_blocks_on_one_optimizer() -> None:
    layers = [trainact.TrAct(nn.Linear(3, 2)), trainact.TrAct(nn.Linear(3, 2))]
    parameters = [p for layer in layers for p in layer.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    with trainact.deferred(layers[0], optimizer):
        with trainact.deferred(layers[1], optimizer):
            pass
        layers[0](torch.randn(8, 3)).sum().backward()
        optimizer.zero_grad(set_to_none=False)
        assert layers[0].tract.statistics._num_rows == 0, "the outer reset is gone"


def test_two_optimizers() -> None:
    model, _, x, y = setting("conv")
    first, rest = trainact.split_parameters(model)
    optimizers = [
        torch.optim.SGD(first, lr=0.02, momentum=0.9),
        torch.optim.SGD(rest, lr=0.02, momentum=0.9),
    ]
    with trainact.deferred(model, reversed(optimizers)):
        for _ in range(5):
            backward(model, x, y, EQUAL)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    truth = train("conv", torch.float64, "sgd", None)
    assert worst([p.detach() for p in model.parameters()], truth) < ORACLE_RTOL


def test_layers_behind_one_another() -> None:
    x, y = problems.make_batch("linear", torch.float64, [BATCH])

    def make() -> nn.Module:
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 2)).double()
        return trainact.apply(model, layer=["0", "2"])

    whole, model = make(), make()
    backward(whole, x, y, [BATCH])
    with trainact.deferred(model, torch.optim.SGD(model.parameters(), lr=0.1)):
        backward(model, x, y, UNEQUAL)
    truth = [p.grad for p in whole.parameters()]
    assert worst([p.grad for p in model.parameters()], truth) < ORACLE_RTOL


def test_torch_without_distributed(monkeypatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    found = train("conv", torch.float64, "sgd", UNEQUAL)
    monkeypatch.undo()
    assert worst(found, train("conv", torch.float64, "sgd", None)) < ORACLE_RTOL


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("kind", ["conv", "wide linear, few rows"])
def test_checkpointing_counts_rows_once(kind: str, reentrant: bool) -> None:
    model, optimizer, x, y = setting(kind)
    rest = model[1:]
    with trainact.deferred(model, optimizer) as step:
        # A window that is dropped without the optimizer's knowledge.
        backward(model, 7 * x, y, EQUAL)
        model.zero_grad()
        for part_x, part_y in zip(x.split(UNEQUAL), y.split(UNEQUAL), strict=True):
            z = checkpoint(
                lambda given: model[0](given * 1.0),
                part_x.clone().requires_grad_(),
                use_reentrant=reentrant,
            )
            problems.loss_of(rest, z, part_y, len(x)).backward()
        assert (
            model[0].tract.statistics._num_rows
            == {
                "conv": 12 * 4 * 3,
                "wide linear, few rows": 12,
            }[kind]
        )
        step.precondition()
    assert relative_error(model[0].weight.grad, whole_gradient(kind)) < ORACLE_RTOL


@pytest.mark.parametrize("reentrant", [None, False, True])
def test_a_layer_called_twice_counts_twice(reentrant: bool | None) -> None:
    torch.manual_seed(0)
    layer = trainact.TrAct(nn.Linear(5, 3, bias=False, dtype=torch.float64))
    first, second = torch.randn(2, 8, 5, dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)

    def call(x: Tensor) -> Tensor:
        if reentrant is None:
            return layer(x)
        return checkpoint(layer, x, use_reentrant=reentrant)

    with trainact.deferred(layer, optimizer):
        (call(first).square().sum() + call(second).square().sum()).backward()
    found = layer.weight.grad
    layer.weight.grad = None
    layer(torch.cat([first, second])).square().sum().backward()
    assert relative_error(found, layer.weight.grad) < ORACLE_RTOL


def test_tied_weights_are_preconditioned_once() -> None:
    torch.manual_seed(0)
    layers = nn.ModuleList(nn.Linear(5, 3, bias=False) for _ in range(2)).double()
    layers[1].weight = layers[0].weight
    trainact.apply(layers, layer=["0", "1"])
    parts = torch.randn(2, 8, 5, dtype=torch.float64)
    optimizer = torch.optim.SGD(layers.parameters(), lr=0.1)
    with trainact.deferred(layers, optimizer):
        for layer, part in zip(layers, parts, strict=True):
            layer(part).square().sum().backward()
    found = layers[0].weight.grad
    layers[0].weight.grad = None
    layers[0](parts.flatten(0, 1)).square().sum().backward()
    assert relative_error(found, layers[0].weight.grad) < ORACLE_RTOL


def test_an_input_buffer_that_is_used_again() -> None:
    model, optimizer, x, y = setting("wide linear, few rows")
    buffer = torch.empty_like(x[:4])
    with trainact.deferred(model, optimizer) as step:
        for part_x, part_y in zip(x.split(EQUAL), y.split(EQUAL), strict=True):
            buffer.copy_(part_x)
            problems.loss_of(model, buffer, part_y, len(x)).backward()
        step.precondition()
    truth = whole_gradient("wide linear, few rows")
    assert relative_error(model[0].weight.grad, truth) < ORACLE_RTOL


@pytest.mark.parametrize("kind", ["linear", "wide linear, few rows", "conv"])
def test_only_empty_micro_batches(kind: str) -> None:
    model, optimizer, x, y = setting(kind)
    with trainact.deferred(model, optimizer):
        (model(x[:0]) - y[:0]).square().sum().backward()
        optimizer.step()
    assert model[0].weight.grad.count_nonzero() == 0


@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        lambda model: pickle.loads(pickle.dumps(model)),
        lambda model: AveragedModel(model).module,
    ],
    ids=["deepcopy", "pickle", "ema"],
)
def test_a_copy_made_inside_is_not_inside(copied: Callable[[Any], Any]) -> None:
    model, optimizer, x, y = setting("conv")
    with trainact.deferred(model, optimizer):
        backward(model, x, y, [4, 8])
        twin = copied(model)
        twin.zero_grad()
        backward(twin, x, y, [len(x)])
        assert relative_error(twin[0].weight.grad, whole_gradient()) < ORACLE_RTOL
        optimizer.step()
    assert relative_error(model[0].weight.grad, whole_gradient()) < ORACLE_RTOL


def test_torch_func_is_refused() -> None:
    model, optimizer, x, _ = setting("conv")

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, parameters, (x,)).sum()

    parameters = {n: p.detach() for n, p in model.named_parameters()}
    with (
        trainact.deferred(model, optimizer),
        pytest.raises(RuntimeError, match="leave the with block"),
    ):
        torch.func.grad(loss)(parameters)
