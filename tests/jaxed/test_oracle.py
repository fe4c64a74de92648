"""The gradient is the oracle's: PyTorch = JAX = oracle, over drawn layers.

One to three spatial dimensions and none, strides, paddings (also one-sided, negative,
'SAME' and 'SAME_LOWER'), dilation, groups, layouts, more and fewer rows than entries,
absolute and relative λ (groups of any scale), four dtypes, micro-batches.

The other files here compare ways of computing with one another, or look at inputs at
the edge of what a float holds.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax import lax
from torch import nn

import trainact
from tests.tolerances import FLOAT32_PROMISE, ORACLE_RTOL, relative_error, solve_rtol
from trainact.jax import (
    GramSums,
    conv_sums,
    dense_sums,
    factorise,
    precondition_gradient,
)

from .cases import Case, draw_case, to_layout

pytestmark = pytest.mark.usefixtures("strict_jax")

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TOLERANCES = {"float32": FLOAT32_PROMISE, "float64": ORACLE_RTOL}
# For each number of dimensions.
NUM_CASES = {"float32": 60, "float64": 24, "bfloat16": 8, "float16": 8}


def torch_gradient(case: Case, dtype: str, relative: bool) -> np.ndarray:
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
    layer = trainact.TrAct(layer, relative=relative)
    with torch.no_grad():
        layer.weight.copy_(w)
    layer(x).backward(grad_z)
    grad = layer.weight.grad.numpy()
    return grad.T if case.is_dense else to_layout(grad, case.layouts[1], "OI")


@pytest.mark.parametrize("dtype", list(NUM_CASES))
@pytest.mark.parametrize("spatial", [0, 1, 2, 3])
def test_torch_is_jax_is_the_oracle(spatial: int, dtype: str, record_property) -> None:
    rng, forms, errors = np.random.default_rng(spatial), set(), {}
    for number in range(NUM_CASES[dtype]):
        case, relative = (
            draw_case(rng, spatial),
            dtype in TOLERANCES and number % 3 == 2,
        )
        if relative:
            scales = rng.choice([1e-3, 1.0, 255.0], case.groups)
            case = replace(case, scales=tuple(scales))
        gradient = jax.jit(partial(case.gradient, relative=relative))
        with jax.enable_x64(dtype == "float64"):
            result = gradient(*case.given(dtype))
        truth = case.truth(dtype, relative=relative)
        assert result.dtype == dtype
        assert result.shape == truth.shape
        rows = case.rows(case.arrays()[0])
        error = relative_error(result, truth)
        if dtype in TOLERANCES:
            theirs = torch_gradient(case, dtype, relative)
            error = max(error, relative_error(result, theirs)) / TOLERANCES[dtype]
        else:
            error /= max(solve_rtol(getattr(torch, dtype), r, 0.1) for r in rows)
        errors[str(case)] = error
        forms.add((rows.shape[1] < rows.shape[2], relative))
    worst = max(errors, key=errors.__getitem__)
    record_property("worst_share_of_the_tolerance", errors[worst])
    assert errors[worst] < 1, worst
    assert len(forms) == (4 if dtype in TOLERANCES else 2)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("dtype", list(TOLERANCES))
@pytest.mark.parametrize("spatial", [0, 2])
def test_micro_batches_are_the_whole_batch(
    spatial: int, dtype: str, relative: bool
) -> None:
    rng, lam = np.random.default_rng(3), 0.25  # a float32 too, where it is traced
    for _ in range(4):
        case = draw_case(rng, spatial)
        # Of different sizes: a mean of their own λ would be another one.
        scales = [10.0**part if relative else 1.0 for part in range(4)]
        parts = [replace(case, scales=(scale,)) for scale in scales]
        with jax.enable_x64(dtype == "float64"):
            given = [part.given(dtype, seed) for seed, part in enumerate(parts)]
            xs, (w, *_), grads_z = zip(*given, strict=True)

            def add(carry, batch, case=case, w=w):
                grad, sums = carry
                x, grad_z = batch
                _, pull = jax.vjp(lambda w: case.plain(x, w), w)
                more = (
                    dense_sums(x) if case.is_dense else conv_sums(x, w, **case.settings)
                )
                return (grad + pull(grad_z)[0], sums + more), None

            entries = int(np.prod(case.kernel[1:]))
            zero = jnp.zeros_like(w), GramSums.zeros(entries, case.groups, dtype)
            scan = jax.jit(partial(lax.scan, add))
            (grad, sums), _ = scan(zero, (jnp.stack(xs), jnp.stack(grads_z)))
            factor = jax.jit(partial(factorise, relative=relative))(
                sums, jnp.float32(lam)
            )
            layout = "IO" if case.is_dense else case.layouts[1]
            result = precondition_gradient(grad, factor, layout=layout)
        join = np.concatenate if len(case.images) > 1 else np.stack
        arrays = [part.arrays(seed) for seed, part in enumerate(parts)]
        x, grad_z = (
            join([one[i].astype(dtype).astype("float64") for one in arrays])
            for i in (0, 2)
        )
        truth = case.oracle(x, grad_z, lam, relative)
        assert relative_error(result, truth) < TOLERANCES[dtype], case
