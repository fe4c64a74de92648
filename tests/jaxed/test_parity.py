"""PyTorch = JAX = oracle, over drawn geometries.

One to three spatial dimensions and none, strides, paddings (also one-sided, negative,
'SAME' and 'SAME_LOWER'), dilation, groups, layouts, more and fewer rows than entries.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
from torch import nn

import trainact
from tests.tolerances import FLOAT32_PROMISE, ORACLE_RTOL, relative_error

from .cases import Case, draw_case, to_layout

pytestmark = pytest.mark.usefixtures("strict_jax")

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TOLERANCES = {"float32": FLOAT32_PROMISE, "float64": ORACLE_RTOL}
NUM_CASES = {"float32": 51, "float64": 15}  # for each number of dimensions


def torch_gradient(case: Case, dtype: str) -> np.ndarray:
    """What the PyTorch layer computes; padding is done for it beforehand."""
    x, w, grad_z = (torch.tensor(a.astype(dtype)) for a in case.arrays())
    outputs, inputs, *kernel = w.shape
    if case.is_dense:
        layer: nn.Module = nn.Linear(inputs, outputs, bias=False, dtype=w.dtype)
    else:
        x = nn.functional.pad(x, [p for pair in reversed(case.pairs) for p in pair])
        layer = CONVS[len(kernel)](
            inputs * case.groups,
            outputs,
            kernel,
            case.each("strides"),
            dilation=case.each("rhs_dilation"),
            groups=case.groups,
            bias=False,
            dtype=w.dtype,
        )
    layer = trainact.TrAct(layer)
    with torch.no_grad():
        layer.weight.copy_(w)
    layer(x).backward(grad_z)
    grad = layer.weight.grad.numpy()
    return grad.T if case.is_dense else to_layout(grad, case.layouts[1], "OI")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("spatial", [0, 1, 2, 3])
def test_torch_is_jax_is_the_oracle(spatial: int, dtype: str, record_property) -> None:
    rng, forms, errors = np.random.default_rng(spatial), set(), {}
    for _ in range(NUM_CASES[dtype]):
        case = draw_case(rng, spatial)
        with jax.enable_x64(dtype == "float64"):
            result = np.asarray(jax.jit(case.gradient)(*case.given(dtype)))
        x, _, grad_z = (a.astype(dtype).astype("float64") for a in case.arrays())
        truth = case.oracle(x, grad_z)
        assert result.dtype == dtype
        assert result.shape == truth.shape
        errors[str(case)] = max(
            relative_error(result, truth),
            relative_error(result, torch_gradient(case, dtype)),
        )
        _, num_rows, num_entries = case.rows(x).shape
        forms.add("dual" if num_rows < num_entries else "primal")
    worst = max(errors, key=errors.__getitem__)
    record_property("worst_relative_error", errors[worst])
    assert errors[worst] < TOLERANCES[dtype], worst
    assert forms == {"dual", "primal"}
