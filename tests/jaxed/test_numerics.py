"""Precision, tiles and inputs at the edge of what a float holds."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax import lax

from tests.tolerances import (
    FLOAT32_PROMISE,
    GRAM_EPS,
    ORACLE_RTOL,
    SAFETY,
    relative_error,
    solve_rtol,
)
from trainact import reference
from trainact.geometry import Geometry
from trainact.jax import (
    factorise,
    gram,
    matmul,
    patch_gram,
    precision,
    precondition_gradient,
    tract_conv,
)

from .cases import Case

pytestmark = pytest.mark.usefixtures("strict_jax")

EPS = float(jnp.finfo("float32").eps)


def dense(rows: int, entries: int, scale: float = 1.0) -> Case:
    return Case((rows, entries), (3, entries), {}, scales=(scale,))


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 64])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-6, 1.0, 255.0, 1e4])
def test_scales(rows: int, scale: float) -> None:
    case = dense(rows, 8, scale)
    result = case.gradient(*case.given("float32"))
    assert jnp.isfinite(result).all()
    (x_NP,) = case.rows(case.arrays()[0])
    bound = solve_rtol(torch.float32, x_NP, 0.1)
    assert relative_error(result, case.truth("float32")) < max(bound, EPS)


@pytest.mark.parametrize("shape", [(40, 6), (4, 6), (1, 6)])
def test_constant_input(shape: tuple[int, int]) -> None:
    for value in (0.0, 1.0, 255.0, 1e4):
        x, w = jnp.full(shape, value), jnp.ones((6, 2))
        grad = dense(*shape).gradient(x, w, jnp.ones((shape[0], 2)))
        assert jnp.isfinite(grad).all(), value
        # One direction: its damped eigenvalue is 6 value² + λ.
        expected = shape[0] * value / (6 * value**2 + 0.1)
        bound = solve_rtol(torch.float32, np.asarray(x, "float64"), 0.1)
        if shape[0] < shape[1]:  # the dual form
            bound = FLOAT32_PROMISE
        assert relative_error(grad, np.full((6, 2), expected)) < bound


def test_one_long_row_keeps_its_digits() -> None:
    x = jnp.asarray(np.random.default_rng(0).uniform(0, 255, (1, 50_000)), "float32")
    grad_z = jnp.asarray([[1.0, -2.0]])
    grad = dense(1, 50_000).gradient(x, jnp.zeros((50_000, 2)), grad_z)
    row = np.asarray(x[0], "float64")
    truth = np.outer(row, np.asarray(grad_z[0])) / (row @ row + 0.1)
    assert relative_error(grad, truth) < FLOAT32_PROMISE


relatives = pytest.mark.parametrize("relative", [False, True])
forms = pytest.mark.parametrize("rows", [4, 20])  # of 8 entries


@relatives
@forms
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite_input(rows: int, value: float, relative: bool) -> None:
    case = dense(rows, 8)
    x, w, grad_z = case.given("float32")
    gradient = partial(case.gradient, w=w, grad_z=grad_z, relative=relative)
    assert not jnp.isfinite(gradient(x.at[1, 2].set(value))).all()
    assert jnp.isfinite(gradient(x)).all()


@relatives
@forms
def test_the_least_damping(rows: int, relative: bool) -> None:
    case = dense(rows, 8, 30.0)
    given = case.given("float32")
    one, other = (case.gradient(*given, v, relative=relative) for v in (1e-30, 1e-20))
    assert np.array_equal(one, other)
    assert jnp.isfinite(one).all()


@forms
def test_a_relative_damping_of_zeros_is_taken_as_it_is(rows: int) -> None:
    case = dense(rows, 8, 0.0)
    assert not case.gradient(*case.given("float32"), relative=True).any()
    factor = factorise(jnp.zeros((3, 3)), 0.25, relative=True)
    unit = precondition_gradient(jnp.eye(3), factor, layout="OI")
    assert np.array_equal(unit, 4 * np.eye(3))


def test_statistics_of_low_precision_inputs_are_float32() -> None:
    x = jnp.asarray(np.random.default_rng(0).standard_normal((5, 3, 9, 9)), "bfloat16")
    moment = patch_gram(x, 3)
    assert moment.dtype == jnp.float32
    rows = reference.unfold(
        np.asarray(x, "float64"), (3, 3), (1, 1), [(0, 0)] * 2, (1, 1)
    )
    assert relative_error(moment, reference.gram(rows[0])) < GRAM_EPS * EPS


@pytest.mark.parametrize("is_cpu", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tiles(is_cpu: bool, dtype: str, monkeypatch) -> None:
    # Some images, some lines of an image, and what is left over of both.
    monkeypatch.setattr(matmul, "on_cpu", lambda: is_cpu)
    monkeypatch.setattr(gram, "on_cpu", lambda: is_cpu)
    tolerance = {"float32": GRAM_EPS * EPS, "float64": ORACLE_RTOL}[dtype]
    settings = ((3, 3), (2, 1), [(1, 0), (0, 2)], (1, 2))
    for batch, size, tile in ((7, 5, 60), (2, 11, 13), (1, 9, 1), (6, 4, 10_000)):
        monkeypatch.setattr(matmul, "ACCELERATOR_TILE_BYTES", 4 * 18 * tile)
        monkeypatch.setattr(matmul, "BLOCK_ROWS", tile if is_cpu else 5)
        x = np.random.default_rng(size).standard_normal((batch, 2, size, 8))
        x = x.astype(dtype)
        (rows,) = reference.unfold(x.astype("float64"), *settings)
        kernel, stride, padding, dilation = settings
        conv = Geometry(2, kernel, stride, tuple(padding), dilation)
        for geometry, given in ((conv, x), (Geometry(18), rows.astype(dtype))):
            with jax.enable_x64(True):
                total = jax.jit(partial(gram.compute_gram, geometry=geometry))(given)
            assert relative_error(total[0], rows.T @ rows) < tolerance


def test_many_rows_lose_no_digits() -> None:
    # A million positive products: one float32 sum would lose two digits.
    x = np.random.default_rng(0).uniform(0, 1, (1_000_000, 2)).astype("float32")
    moment = patch_gram(jnp.asarray(x[:, :, None]), 1)
    wide = x.astype("float64")
    assert relative_error(moment, wide.T @ wide / len(x)) < 2 * EPS


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("rest", [0, 7])
def test_blocks_and_what_is_left_over(groups: int, rest: int) -> None:
    rng = np.random.default_rng(rest)
    wide = rng.uniform(0, 1, (groups, 3, 3 * matmul.BLOCK_ROWS + rest))
    columns = wide.astype("float32")
    total = matmul.sum_self_product(jnp.asarray(columns), "float32")
    wide = columns.astype("float64")
    truth = wide @ wide.transpose(0, 2, 1)
    assert relative_error(total, truth) < GRAM_EPS * EPS


def test_the_unfolded_batch_never_exists() -> None:
    x = jax.ShapeDtypeStruct((32, 64, 64, 3), jnp.float32)
    w = jax.ShapeDtypeStruct((7, 7, 3, 8), jnp.float32)
    unfolded = 4 * 32 * 64 * 64 * 147
    numbers = ("NHWC", "HWIO", "NHWC")

    def ours(w, x):
        return tract_conv(x, w, padding="SAME", dimension_numbers=numbers).sum()

    def plain(w, x):
        return lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=numbers
        ).sum()

    used, needed = (
        jax.jit(jax.grad(layer)).lower(w, x).compile().memory_analysis()
        for layer in (ours, plain)
    )
    more = used.temp_size_in_bytes - needed.temp_size_in_bytes
    assert more < unfolded / 8


@pytest.mark.parametrize("rows", [4, 12, 200])
def test_without_float64(rows: int, monkeypatch, record_property) -> None:
    # As on a TPU: everything in float32.
    monkeypatch.setattr(precision, "FLOAT64_BACKENDS", ())
    for scale in (0.0, 1e-3, 1.0, 10.0, 255.0):
        case = dense(rows, 12, scale)
        given = case.given("float32")
        assert "f64" not in str(jax.make_jaxpr(case.gradient)(*given))
        result = case.gradient(*given)
        assert jnp.isfinite(result).all()
        (wide,) = case.rows(case.arrays()[0])
        bound = solve_rtol(torch.float32, wide, 0.1)
        if rows < 12:
            # The span's basis is that of a kernel with 8 eps x trace added.
            sizes = np.linalg.svd(wide, compute_uv=False) ** 2
            bound = 8 * SAFETY * EPS * sizes.sum() / max(sizes.min(), EPS)
        error = relative_error(result, case.truth("float32"))
        record_property(f"error_at_scale_{scale:g}", error)
        assert error < max(bound, EPS)
