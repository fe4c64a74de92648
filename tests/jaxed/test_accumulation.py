"""Sums over micro-batches, preconditioned once, are the whole batch's update."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.tolerances import FLOAT32_PROMISE, GRAM_EPS, ORACLE_RTOL, relative_error
from trainact.jax import (
    Factor,
    GramSums,
    conv_sums,
    dense_sums,
    factorise,
    patch_gram,
    precondition,
    precondition_gradient,
)

from .cases import draw_case

pytestmark = pytest.mark.usefixtures("strict_jax")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("spatial", [0, 2])
def test_accumulated_gradient_is_the_whole_batch(spatial: int, dtype: str) -> None:
    rng, parts = np.random.default_rng(3), 4
    tolerance = {"float32": FLOAT32_PROMISE, "float64": ORACLE_RTOL}[dtype]
    layout = "IO" if spatial == 0 else None
    for _ in range(4):
        case = draw_case(rng, spatial)
        batches = [case.arrays(seed) for seed in range(parts)]
        with jax.enable_x64(dtype == "float64"):
            arrays = [case.given(dtype, seed) for seed in range(parts)]
            w = arrays[0][1]
            xs, grads_z = (jnp.stack([a[i] for a in arrays]) for i in (0, 2))

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
            step = jax.jit(
                lambda *batch, zero=zero, add=add: lax.scan(add, zero, batch)[0]
            )
            grad, sums = step(xs, grads_z)
            factor = factorise(sums, 0.1)
            result = precondition_gradient(
                grad, factor, layout=layout or case.layouts[1]
            )
        axis = 0 if len(case.images) > 1 else None
        if axis is None:
            x, grad_z = (np.stack([b[i] for b in batches]) for i in (0, 2))
        else:
            x, grad_z = (np.concatenate([b[i] for b in batches]) for i in (0, 2))
        x, grad_z = (a.astype(dtype).astype("float64") for a in (x, grad_z))
        assert relative_error(result, case.oracle(x, grad_z)) < tolerance, case


def test_ways_to_add() -> None:
    rng = np.random.default_rng(0)
    parts = [
        jnp.asarray(rng.standard_normal((50, 6)) + 3, "float32") for _ in range(30)
    ]
    sums = [dense_sums(part) for part in parts]
    total = sum(sums[1:], sums[0])
    x = np.concatenate(parts).astype("float64")
    assert total.rows == len(x)
    exact = np.asarray(total.products, "float64") + np.asarray(
        total.remainder, "float64"
    )
    eps = float(jnp.finfo("float32").eps)
    assert relative_error(exact[0], x.T @ x) < eps
    by_leaf = jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *sums)
    assert relative_error(by_leaf.products[0], x.T @ x) < GRAM_EPS * eps


def test_factor_from_gram_from_sums_from_input() -> None:
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.standard_normal((3, 2, 6, 5)), "float32")
    w = jnp.asarray(rng.standard_normal((4, 2, 3, 2)), "float32")
    gram = patch_gram(x, (3, 2), stride=(1, 2), padding=1)
    sums = conv_sums(x, w, strides=(1, 2), padding=1)
    first, second = factorise(gram, 0.1), factorise(sums, 0.1)
    assert relative_error(first.inner, second.inner) < FLOAT32_PROMISE
    grad = precondition_gradient(w, second, layout="OIHW")
    marked = jax.grad(lambda v: jnp.vdot(precondition(v, second, layout="OIHW"), w))(w)
    assert np.array_equal(marked, grad)
    last = precondition_gradient(w.transpose(2, 3, 1, 0), second, layout="HWIO")
    assert relative_error(last.transpose(3, 2, 0, 1), grad) < FLOAT32_PROMISE


def unit_rows(factor: Factor) -> jax.Array:
    """The inverse, from what becomes of the unit vectors."""
    return precondition_gradient(jnp.eye(3), factor, layout="OI")


def test_no_rows() -> None:
    factor = factorise(dense_sums(jnp.zeros((0, 3))), 0.5)
    assert np.array_equal(unit_rows(factor), 2 * np.eye(3))
    factor = factorise(GramSums.zeros(3), 0.5)
    assert np.array_equal(unit_rows(factor), 2 * np.eye(3))


def test_sums_have_no_gradient() -> None:
    x = jnp.ones((4, 3))
    assert not jax.grad(lambda x: dense_sums(x).products.sum())(x).any()
    assert not jax.grad(lambda x: patch_gram(x[None, None], 2).sum())(x).any()
    assert not jax.grad(lambda x: unit_rows(factorise(x.T @ x)).sum())(x).any()
