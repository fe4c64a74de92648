"""λ acts as it was set where float32 sums resolve it; where they do not, it is said.

- Pixels in [0, 255] at λ = 0.1 (`test_pixels_at_the_lam_that_was_set`).
- A larger λ is used for larger inputs, with one warning (`test_one_warning`), and
  `diagnose` shows it (`test_diagnostics_show_the_lam_that_acts`).
- Where rounding is as large as λ, the gradient is finite
  (`test_smooth_images_stay_finite`, `test_where_rounding_wins_the_trace_takes_over`).
"""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

import trainact
from trainact import factor
from trainact.damping import Damping
from trainact.diagnostics import diagnose
from trainact.factor import factorise

from .cases import oracle_gradient
from .tolerances import FLOAT32_PROMISE, LAM_SET_RTOL, relative_error


@pytest.fixture(autouse=True)
def nothing_looked_at(monkeypatch) -> None:
    monkeypatch.setattr(factor, "_checked", set())


def gradient(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    layer.zero_grad()
    z = layer(x)
    grad_z = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    z.backward(grad_z)
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
