"""Sums over micro-batches: the ways to add them, and factors made of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tolerances import FLOAT32_PROMISE, GRAM_EPS, relative_error
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

pytestmark = pytest.mark.usefixtures("strict_jax")


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
