"""Every tolerance of the tests, with its reason. No other test file holds one."""

from __future__ import annotations

import numpy as np
import torch

# A system with condition number kappa loses log10(kappa) digits:
#     relative error <= C * eps(dtype) * kappa,   kappa <= (tr A + lam) / lam.
# The worst of 40,000 drawn layers had C = 5.8, from a sum over one row of 81 entries
# that are nearly all equal, whose roundings add up; the next had 3.4.
SAFETY = 8.0

# G = grad_z^T X is a sum of N products, and what cancels in it leaves its rounding:
#     relative error of G <= C * eps(dtype) * |grad_z| |X| / |G|   (Frobenius norms).
# A sum of N terms of one size and random signs has C = 0.2, and |grad_z| |X| / |G| is
# about sqrt(N) there. C = 1 is five times the worst of 1,600 drawn layers (0.21).
PRODUCT_EPS = 1.0

# Two float64 routes to one answer: rounding of some thousand additions.
ORACLE_RTOL = 1e-10

# 20 losses of one training in float64, computed in two ways: rounding, which training
# amplifies. Worst measured: 2e-13, on two ranks. A λ that is larger by a millionth
# changes them by 3e-8 and more.
CURVE_RTOL = 1e-10

# What the project promises in float32 for inputs of unit scale and lam = 0.1.
FLOAT32_PROMISE = 1e-5

# A gradient of unit scale computed in a low precision: its products and sums are
# rounded to eps, and (A + lam I)^-1 of nearly white inputs hardly amplifies that. Worst
# of the contract's table: 0.6 eps (bfloat16 and float16).
LOW_PRECISION_EPS = 4.0

# Smooth pixels in [0, 255] under λ = 0.1, with a condition number of 1e7, of which what
# the noise in the pixels leaves below 1e5 counts. Worst of three drawn: 9.4e-5.
LAM_SET_RTOL = 1e-3

# Sums in another order: a few eps, times the growth of a long sum.
GRAM_EPS = 32.0


def solve_rtol(
    dtype: torch.dtype,
    rows: np.ndarray,
    lam: float,
    grad_z: np.ndarray | None = None,
    in_span: bool = False,
) -> float:
    """Bound on the relative error of a preconditioned gradient.

    Without ``grad_z``, both sides were made from the same ordinary gradient. With
    ``in_span``, no rounding outside the span of the rows is amplified by 1 / λ: there
    the smallest eigenvalue of A adds to λ.
    """
    trace = float(np.sum(rows**2) / len(rows))
    kappa = (trace + lam) / lam if trace else 1.0
    if in_span and trace:
        smallest = np.linalg.svd(rows, compute_uv=False)[-1] ** 2 / len(rows)
        kappa = (trace + lam) / (smallest + lam)
    error = SAFETY
    if grad_z is not None:
        size = np.linalg.norm(grad_z) * np.linalg.norm(rows)
        error += PRODUCT_EPS * float(size / (np.linalg.norm(grad_z.T @ rows) or 1.0))
    return error * torch.finfo(dtype).eps * kappa


def low_precision_rtol(dtype: torch.dtype) -> float:
    """Bound for a plain gradient that was computed in a low precision."""
    return LOW_PRECISION_EPS * torch.finfo(dtype).eps


def relative_error(value: object, truth: object) -> float:
    """Frobenius norm of the difference over that of the truth."""
    value_64 = _as_float64(value)
    truth_64 = _as_float64(truth)
    scale = np.linalg.norm(truth_64)
    return float(np.linalg.norm(value_64 - truth_64) / (scale or 1.0))


def _as_float64(value: object) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        return value.detach().double().numpy()
    return np.asarray(value, dtype=np.float64)


def span_rtol(dtype: torch.dtype, rows: np.ndarray, lam: float) -> float:
    """The same for an ordinary gradient, which lies in the span of few rows.

    There λ amplifies what is inside alone: kappa <= (largest + lam) / (smallest + lam)
    of the eigenvalues of A that are not zero.
    """
    values = np.linalg.svd(rows, compute_uv=False) ** 2 / len(rows)
    return SAFETY * torch.finfo(dtype).eps * (values[0] + lam) / (values[-1] + lam)
