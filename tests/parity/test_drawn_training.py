"""Ways of training, drawn at random: exact, or refused in words.

What is drawn together: the layer's geometry, fewer and more rows than entries, dtype,
scale of the input and λ, whether the input needs a gradient, how often and how the
layer is called in a loss, how the gradient is asked for, and what steps with it.

What an optimizer steps with is the oracle's gradient: the sum over the calls, each with
its own statistics, or inside `trainact.deferred` that of one batch of all rows. Only
ways in which `deferred` cannot know what lands in ``.grad`` may be refused instead.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import event, given
from hypothesis import strategies as st
from timm.optim.lookahead import Lookahead
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import trainact
from tests.cases import Case, draw_case, oracle_grad_rows, oracle_rows
from tests.drawing import examples
from tests.sam import Sam
from tests.tolerances import FLOAT32_PROMISE, solve_rtol
from trainact import reference

CALLS: dict[str, Callable[..., Tensor]] = {
    "plain": lambda layer, x: layer(x),
    "checkpoint": partial(checkpoint, use_reentrant=False),
    "reentrant checkpoint": partial(checkpoint, use_reentrant=True),
}


def add_gradient(loss: Tensor, weight: Tensor) -> None:
    """As methods do that change gradients before they add them up."""
    (gradient,) = torch.autograd.grad(loss, weight)
    weight.grad = gradient if weight.grad is None else weight.grad + gradient


def sum_apart(loss: Tensor, weight: Tensor) -> Tensor:
    """As gradient surgery does, which sets ``.grad`` at the end."""
    return torch.autograd.grad(loss, weight)[0]


def look_first(loss: Tensor, weight: Tensor) -> None:
    """As a script does that logs the norm of one gradient."""
    torch.autograd.grad(loss, weight, retain_graph=True)
    loss.backward()


ASKS: dict[str, Callable[[Tensor, Tensor], Tensor | None]] = {
    "backward": lambda loss, _: loss.backward(),
    "added by hand": add_gradient,
    "summed apart": sum_apart,
    "looked at": look_first,
}


class Recorder(torch.optim.SGD):
    """Remembers what it steps with; the weights stay as they are."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__([weight], lr=0.0)
        self.weight = weight

    def step(self, closure: Any = None) -> Any:
        self.gradient = self.weight.grad.clone()
        return super().step(closure)


OPTIMIZERS: dict[str, Callable[[Recorder], torch.optim.Optimizer]] = {
    "sgd": lambda base: base,
    "lookahead": Lookahead,
    "sam": Sam,
}


class Way(NamedTuple):
    """A way of training."""

    calls: list[list[str]]  # of each loss
    ask: str
    deferred: bool
    optimizer: str

    def may_be_refused(self) -> bool:
        """Whether what `deferred` sees may differ from what lands in ``.grad``."""
        is_nested = any(
            len(calls) > 1 and "reentrant checkpoint" in calls for calls in self.calls
        )
        is_odd = self.ask != "backward" or self.optimizer != "sgd" or is_nested
        return self.deferred and is_odd


@st.composite
def ways(draw: st.DrawFn) -> Way:
    ask = draw(st.sampled_from(list(ASKS)))
    # PyTorch refuses autograd.grad through a reentrant checkpoint.
    kinds = list(CALLS) if ask == "backward" else ["plain", "checkpoint"]
    calls = st.lists(st.sampled_from(kinds), min_size=1, max_size=3)
    losses = draw(st.lists(calls, min_size=1, max_size=3))
    deferred = draw(st.booleans())
    return Way(losses, ask, deferred, draw(st.sampled_from(list(OPTIMIZERS))))


Data = list[list[tuple[Tensor, Tensor]]]  # input and gradient of each call


def draw_data(
    case: Case, way: Way, dtype: torch.dtype, scale: float, grad_x: bool
) -> Data:
    data: Data = []
    for i, calls in enumerate(way.calls):
        data.append([])
        for j, call in enumerate(calls):
            # Batches that are alike would not tell whose statistics were used.
            x = (scale * (1 + i + 2 * j)) * case.input(dtype, seed=3 * i + j)
            with torch.no_grad():
                z = case.layer(dtype)(x)
            generator = torch.Generator().manual_seed(100 + 3 * i + j)
            grad_z = torch.randn(z.shape, generator=generator).to(dtype)
            data[-1].append((x.requires_grad_(grad_x or "reentrant" in call), grad_z))
    return data


def train(layer: nn.Module, way: Way, data: Data) -> Tensor:
    """What the optimizer steps with."""
    recorder = Recorder(layer.weight)
    optimizer = OPTIMIZERS[way.optimizer](recorder)

    def accumulate() -> None:
        parts = []
        for calls, tensors in zip(way.calls, data, strict=True):
            loss = torch.zeros((), dtype=layer.weight.dtype)
            for call, (x, grad_z) in zip(calls, tensors, strict=True):
                loss = loss + (CALLS[call](layer, x) * grad_z).sum()
            parts.append(ASKS[way.ask](loss, layer.weight))
        if way.ask == "summed apart":
            layer.weight.grad = torch.stack(parts).sum(0)

    def step() -> None:
        accumulate()
        if isinstance(optimizer, Sam):
            optimizer.climb()
            accumulate()
        optimizer.step()

    if way.deferred:
        with trainact.deferred(layer, optimizer):
            step()
    else:
        step()
    return recorder.gradient


def expect(
    layer: nn.Module, way: Way, data: Data, lam: float
) -> tuple[np.ndarray, float]:
    """The oracle's gradient, and how far from it rounding can lead."""
    batches = [
        (oracle_grad_rows(layer, grad_z), oracle_rows(layer, x))
        for tensors in data
        for x, grad_z in tensors
    ]
    if way.deferred:
        grads, rows = zip(*batches, strict=True)
        batches = [(np.concatenate(grads, 1), np.concatenate(rows, 1))]
    truth, bound, dtype = np.zeros(layer.weight.shape), 0.0, layer.weight.dtype
    for grads, rows in batches:
        blocks = []
        for grad_z, x in zip(grads, rows, strict=True):
            blocks.append(reference.tract_gradient(grad_z, x, lam))
            # A float64 gradient may have digits outside the span of nearly equal rows.
            rtol = solve_rtol(dtype, x, lam, grad_z, in_span=dtype == torch.float32)
            rtol = max(rtol, FLOAT32_PROMISE) if dtype == torch.float32 else rtol
            bound += rtol * float(np.linalg.norm(blocks[-1]))
        truth += np.concatenate(blocks).reshape(truth.shape)
    return truth, bound


def is_raised_by_trainact(error: BaseException) -> bool:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return "trainact" in Path(last.filename).parts and "raise" in (last.line or "")


# Where the floor of λ acts, it is within the bound.
@pytest.mark.filterwarnings("ignore::trainact.DampingWarning")
@given(
    way=ways(),
    kind=st.sampled_from(["linear", "conv1d", "conv2d", "conv3d"]),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    scale=st.sampled_from([1e-3, 1.0, 30.0, 255.0]),
    lam=st.sampled_from([1e-3, 0.1, 1.0]),
    grad_x=st.booleans(),
)
@examples(150)
def test_exact_or_refused(
    way: Way,
    kind: str,
    seed: int,
    dtype: torch.dtype,
    scale: float,
    lam: float,
    grad_x: bool,
) -> None:
    case = draw_case(np.random.default_rng(seed), kind)
    layer = trainact.TrAct(case.layer(dtype), lam=lam)
    data = draw_data(case, way, dtype, scale, grad_x)
    truth, bound = expect(layer, way, data, lam)
    try:
        found = train(layer, way, data)
    except (RuntimeError, ValueError) as error:
        if not way.may_be_refused() or not is_raised_by_trainact(error):
            raise
        event(f"refused: {error}")
        return
    assert np.linalg.norm(found.double().numpy() - truth) <= bound, case
