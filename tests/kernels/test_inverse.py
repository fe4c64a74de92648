"""The single-launch inverse of A + λI against the Cholesky route, policy by policy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tolerances import ORACLE_RTOL, relative_error, solve_rtol
from trainact.damping import Damping, resolution
from trainact.factor import factorise
from trainact.kernels.choice import MAX_INVERSE_ENTRIES

from .conftest import needs_interpreter, needs_triton

pytestmark = [needs_triton, needs_interpreter]
kernel: Any = pytest.importorskip("trainact.kernels.inverse")

SIZES = (1, 2, 16, 17, 27, 48, 64, 75, MAX_INVERSE_ENTRIES)


def products(size: int, num_rows: int = 300, groups: int = 1) -> Tensor:
    x = torch.randn(groups, num_rows, size, dtype=torch.float64) + 0.5
    return x.mT @ x


def library(products_GPP: Tensor, num_rows: int, lam: float, dtype=torch.float64):
    return factorise(products_GPP, Damping(lam), dtype, num_rows=num_rows).inner


@pytest.mark.parametrize("size", SIZES)
def test_inverse_is_the_oracles(size: int) -> None:
    gram = products(size)
    damped = gram[0] / 300 + 0.1 * torch.eye(size, dtype=torch.float64)
    result = kernel.damped_inverse(gram, 300, 0.1, torch.float64)
    assert relative_error(result[0], torch.linalg.inv(damped)) < ORACLE_RTOL
    assert torch.equal(result, result.mT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("lam", [1e-4, 0.1, 1 / 3, 1e3])
def test_groups_and_dampings(lam: float, dtype: torch.dtype) -> None:
    gram = products(27, groups=3)
    result = kernel.damped_inverse(gram, 300, lam, dtype)
    assert result.dtype == dtype
    expected = library(gram, 300, lam, dtype)
    rows = torch.linalg.cholesky(gram[0] * 3).mT.numpy()  # of trace tr A, as 300 are
    assert relative_error(result, expected) < solve_rtol(dtype, rows, lam)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 1e-25, 1e-12, 1.0, 255.0])
def test_a_relative_damping(scale: float, dtype: torch.dtype) -> None:
    gram = scale**2 * products(27, groups=3)
    result = kernel.damped_inverse(gram, 300, 0.1, dtype, relative=True)
    expected = factorise(gram, Damping(0.1, relative=True), dtype, num_rows=300).inner
    assert result.isfinite().all()
    unit_rows = np.ones((1, 27))  # of trace n, as at any scale
    assert relative_error(result, expected) < solve_rtol(dtype, unit_rows, 0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 1e-12, 255.0, 1e4, 1e12])
@pytest.mark.parametrize("rank", [1, 20])
def test_damping_is_at_least_what_can_be_resolved(scale, rank, dtype) -> None:
    x = scale * torch.ones(300, 20, dtype=torch.float64)
    if rank > 1:
        x *= torch.randn(300, 20, dtype=torch.float64)
    gram = (x.mT @ x)[None]
    result = kernel.damped_inverse(gram, 300, 1e-3, dtype)
    expected = library(gram, 300, 1e-3, dtype)
    assert result.isfinite().all()
    kappa = 1 / resolution(
        torch.finfo(dtype).eps, torch.finfo(torch.float64).eps
    )  # at most, by the rule on the damping
    wide = max(torch.finfo(torch.float64).eps * kappa, torch.finfo(dtype).eps)
    assert relative_error(result, expected) < 4 * wide


@pytest.mark.parametrize("size", [2, 27])
def test_where_rounding_wins_the_trace_takes_over(size: int) -> None:
    gram = products(size, groups=3)
    gram[1] -= 2 * gram[1].diagonal().min() * torch.eye(size, dtype=torch.float64)
    assert torch.linalg.eigvalsh(gram[1]).min() < 0
    gram[1].diagonal()[0] += 10 * gram[0].trace()  # the trace itself stays positive
    result = kernel.damped_inverse(gram, 300, 0.1, torch.float64)
    expected = library(gram, 300, 0.1)
    assert not (expected[1] - expected[1].diagonal().diag()).any()  # it did take over
    assert relative_error(result, expected) < ORACLE_RTOL


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_not_finite_in_one_group(bad: float) -> None:
    gram = products(5, groups=2)
    clean = kernel.damped_inverse(gram, 300, 0.1, torch.float32)
    gram[0, 2, 2] = bad
    result = kernel.damped_inverse(gram, 300, 0.1, torch.float32)
    assert result[0].isnan().all()
    assert torch.equal(result[1], clean[1])


def test_not_finite_beside_the_diagonal_takes_the_trace() -> None:
    gram = products(5)
    gram[0, 3, 1] = float("nan")
    result = kernel.damped_inverse(gram, 300, 0.1, torch.float64)
    assert relative_error(result, library(gram, 300, 0.1)) < ORACLE_RTOL


def test_lower_triangles_are_read_as_by_cholesky() -> None:
    gram = products(17)
    expected = kernel.damped_inverse(gram, 300, 0.1, torch.float64)
    result = kernel.damped_inverse(gram.tril(), 300, 0.1, torch.float64)
    assert torch.equal(result, expected)


def test_memory_layout_does_not_matter() -> None:
    gram = products(17)
    apart = gram.repeat_interleave(2, 1)[:, ::2]
    results = [kernel.damped_inverse(g, 300, 0.1, torch.float64) for g in (gram, apart)]
    assert torch.equal(*results)
