"""λ acts as it was set where float32 sums resolve it; where they do not, it is said.

- Pixels in [0, 255] at λ = 0.1 (`test_pixels_at_the_lam_that_was_set`).
- A larger λ is used for larger inputs, with one warning (`test_one_warning`), and
  `diagnose` shows it (`test_diagnostics_show_the_lam_that_acts`).
- Where rounding is as large as λ, the gradient is finite
  (`test_smooth_images_stay_finite`, `test_where_rounding_wins_the_trace_takes_over`).
- λ in units of tr A / n: the scale of the input does not matter to the change of the
  pre-activations (`test_the_change_of_pre_activations_does_not_depend_on_the_scale`).
"""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import trainact
from trainact import factor
from trainact.damping import Damping
from trainact.diagnostics import diagnose
from trainact.factor import factorise

from .cases import KINDS, Case, backward, draw_case, oracle_gradient, oracle_rtol
from .drawing import examples
from .tolerances import FLOAT32_PROMISE, LAM_SET_RTOL, ORACLE_RTOL, relative_error

LAM = 0.1


@pytest.fixture(autouse=True)
def nothing_looked_at(monkeypatch) -> None:
    monkeypatch.setattr(factor, "_checked", set())


def gradient(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    layer.zero_grad()
    _, grad_z = backward(layer, x)
    return layer.weight.grad.clone(), grad_z


def test_pixels_at_the_lam_that_was_set() -> None:
    """Smooth images with a little noise: the smallest eigenvalues of A are near 1."""
    coarse = 255 * torch.rand(8, 3, 6, 6)
    smooth = nn.functional.interpolate(coarse, size=(48, 48), mode="bicubic")
    x = (smooth + torch.randn(smooth.shape)).clamp(0, 255).round()
    layer = trainact.TrAct(nn.Conv2d(3, 8, 7, stride=2, padding=3))
    found, grad_z = gradient(layer, x)
    truth = oracle_gradient(layer, x, grad_z, 0.1)
    assert relative_error(found, truth) < LAM_SET_RTOL
    assert relative_error(oracle_gradient(layer, x, grad_z, 2.25), truth) > 0.5


@pytest.mark.parametrize("relative", [False, True])
def test_one_warning(relative: bool) -> None:
    layer = trainact.TrAct(nn.Linear(24, 3), relative=relative)
    standardised, large = torch.randn(30, 24), 1e4 * torch.randn(30, 24)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for x in (large, large, standardised):
            gradient(layer, x)
        gradient(layer.double(), large.double())
    expected = [] if relative else [trainact.DampingWarning]
    assert [w.category for w in caught] == expected
    assert all("standardise the inputs" in str(w.message) for w in caught)


@pytest.mark.filterwarnings("ignore::trainact.DampingWarning")
@pytest.mark.parametrize("num_rows", [5, 30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_diagnostics_show_the_lam_that_acts(num_rows: int, dtype: torch.dtype) -> None:
    layer = trainact.TrAct(nn.Linear(24, 3, dtype=dtype))
    # All rows alike: in every other direction λ is all that acts.
    x = torch.full((num_rows, 24), 1e4, dtype=dtype)
    gram_GPP = (x.mT.double() @ x.double() / num_rows)[None]
    # Fewer rows than entries are solved in float64.
    products = dtype if num_rows >= 24 else torch.float64
    largest = torch.linalg.eigvalsh(
        factorise(gram_GPP, Damping(0.1), products).inner
    ).max()
    shown = diagnose(layer, x, torch.randn(num_rows, 3, dtype=dtype)).lam
    assert shown == pytest.approx(1 / largest.item(), rel=1e-4)
    assert (shown > 0.2) == (products == torch.float32)


@pytest.mark.parametrize("scale", [255.0, 1e4, 1e15])
@pytest.mark.filterwarnings("ignore::trainact.DampingWarning")
def test_smooth_images_stay_finite(scale: float) -> None:
    ramp = scale * torch.linspace(0, 1, 128).expand(1, 3, 128, 128).contiguous()
    layer = trainact.TrAct(nn.Conv2d(3, 4, 7, stride=2, padding=3))
    found, _ = gradient(layer, ramp)
    ordinary, _ = gradient(trainact.remove(layer), ramp)
    assert found.isfinite().all()
    assert (found.double() * ordinary.double()).sum() > 0


def test_where_rounding_wins_the_trace_takes_over() -> None:
    gram_GPP = torch.diag(torch.tensor([5.0, 1.0, -0.2])).double()[None]
    inverse = factorise(gram_GPP, Damping(0.1), torch.float32).inner
    assert relative_error(inverse[0], torch.eye(3) / 5.9) < FLOAT32_PROMISE


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-4, 0.3, 255.0, 1e5]))
@examples(10)
def test_the_change_of_pre_activations_does_not_depend_on_the_scale(
    kind: str, seed: int, scale: float
) -> None:
    case = draw_case(np.random.default_rng(seed), kind)
    layer = trainact.TrAct(case.layer(torch.float32), LAM, relative=True)
    x = case.input(torch.float32)
    grad, grad_z = gradient(layer, x)
    scaled, _ = gradient(layer, scale * x)
    # Each of the two is rounded.
    bound = 2 * oracle_rtol(layer, x, grad_z, LAM, torch.float32, relative=True)
    assert relative_error(scale * scaled, grad) < bound, case


def test_behind_a_norm_the_scale_matters_still() -> None:
    """As `docs/extensions.md` says: 1 / c² for TrAct, nothing for vanilla."""
    scale = 100.0

    def first_gradient(factor: float, tract: bool) -> Tensor:
        torch.manual_seed(0)
        first, norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, eps=1e-12)
        model = nn.Sequential(first, norm, nn.ReLU(), nn.Conv2d(8, 2, 3)).double()
        if tract:
            trainact.TrAct(first, LAM, relative=True)
        x = Case("", (4, 3, 9, 9)).input(torch.float64)
        model(factor * x).square().mean().backward()
        return first.weight.grad

    vanilla = [first_gradient(factor, tract=False) for factor in (1.0, scale)]
    assert relative_error(vanilla[1], vanilla[0]) < FLOAT32_PROMISE
    tract = [first_gradient(factor, tract=True) for factor in (1.0, scale)]
    assert relative_error(scale**2 * tract[1], tract[0]) < FLOAT32_PROMISE


def test_of_zeros_it_is_taken_as_it_is() -> None:
    layer = trainact.TrAct(nn.Linear(5, 3), LAM, relative=True)
    grad, _ = gradient(layer, torch.zeros(20, 5))
    assert not grad.any()
    zeros = torch.zeros(1, 5, 5, dtype=torch.float64)
    inverse = factorise(zeros, Damping(LAM, relative=True), torch.float64).inner
    assert relative_error(inverse[0], torch.eye(5) / LAM) < ORACLE_RTOL


def test_it_is_shown_changed_copied_and_taken_off() -> None:
    layer = trainact.apply(nn.Sequential(nn.Linear(5, 3)), LAM, relative=True)[0]
    assert repr(layer).endswith(", lam=0.1, relative=True)")
    assert pickle.loads(pickle.dumps(copy.deepcopy(layer))).relative
    layer.lam = 0.3
    assert layer.relative
    x = 10 * Case("", (20, 5)).input(torch.float32)
    grad, grad_z = gradient(layer, x)
    expected = oracle_gradient(layer, x, grad_z, 0.3, relative=True)
    assert relative_error(grad, expected) < FLOAT32_PROMISE
    layer.relative = False
    assert relative_error(gradient(layer, x)[0], expected) > 0.1
    layer.relative = True
    trainact.remove(layer)
    assert type(layer) is nn.Linear
    assert not trainact.TrAct(layer).relative


@pytest.mark.parametrize("value", ["trace", 1, None])
def test_what_is_no_bool_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"relative=.* is not True or False"):
        trainact.TrAct(nn.Linear(2, 2), relative=value)
    layer = trainact.TrAct(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="give the number as lam="):
        layer.relative = value


def test_diagnostics_know_the_damping() -> None:
    layer = trainact.TrAct(nn.Linear(5, 3, dtype=torch.float64), LAM, relative=True)
    x = 10 * Case("", (20, 5)).input(torch.float64)
    _, grad_z = gradient(layer, x)
    figures = diagnose(layer, x, grad_z)
    lam = LAM * float(x.square().mean())
    assert figures.lam == pytest.approx(lam)
    plain = trainact.TrAct(trainact.remove(layer), lam)
    same = diagnose(plain, x, grad_z)
    assert figures.scalars() == pytest.approx(same.scalars())
