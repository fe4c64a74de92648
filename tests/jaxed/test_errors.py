"""What is said when a call does not make sense."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainact.jax import (
    conv_sums,
    dense_sums,
    factorise,
    patch_gram,
    precondition,
    precondition_gradient,
    tract_conv,
    tract_dense,
)

pytestmark = pytest.mark.usefixtures("strict_jax")

X, W = jnp.ones((4, 3)), jnp.ones((3, 2))
IMAGES, KERNEL = jnp.ones((2, 6, 6, 3)), jnp.ones((3, 3, 3, 4))
NHWC = ("NHWC", "HWIO", "NHWC")


def conv(x=IMAGES, w=KERNEL, b=None, lam=0.1, **settings):
    settings = {"padding": "SAME", "dimension_numbers": NHWC} | settings
    return tract_conv(x, w, b, lam, **settings)


@pytest.mark.parametrize(
    "lam",
    [0, -0.1, float("nan"), float("inf"), True, "0.1", None, 1j, np.array(True)],
)
def test_damping(lam) -> None:
    with pytest.raises(ValueError, match=r"lam=.*is not a positive finite number"):
        tract_dense(X, W, lam=lam)
    with pytest.raises(ValueError, match="lam="):
        conv(lam=lam)
    with pytest.raises(ValueError, match="lam="):
        factorise(jnp.eye(3), lam)


def test_damping_arrays() -> None:
    with pytest.raises(ValueError, match=r"lam has shape \(2,\)"):
        tract_dense(X, W, lam=jnp.ones(2))
    with pytest.raises(ValueError, match="dtype int32; expected a float scalar"):
        tract_dense(X, W, lam=jnp.int32(1))


@pytest.mark.parametrize(
    ("x", "w", "b", "message"),
    [
        (X, W.T, None, r"needs w\.T"),
        (X, jnp.ones((5, 2)), None, r"\(4, 3\) and w of shape \(5, 2\) do not fit"),
        (X, jnp.ones(3), None, "do not fit"),
        (jnp.float32(1), W, None, "do not fit"),
        (X.astype("int32"), W, None, "x has dtype int32.*convert"),
        (X, W.astype("int8"), None, "w has dtype int8"),
        (X.astype("complex64"), W, None, "x has dtype complex64.*for real numbers"),
        (X.astype("bfloat16"), W, None, "dtypes differ.*x bfloat16, w float32"),
        (X, W, jnp.ones(3), r"b has shape \(3,\); expected \(2,\)"),
        (X, W, jnp.ones(2, "bfloat16"), "dtypes differ.*b bfloat16"),
    ],
)
def test_dense(x, w, b, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tract_dense(x, w, b)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": IMAGES[0]}, "batch of one image"),
        ({"x": IMAGES.astype("uint8")}, "x has dtype uint8"),
        ({"dimension_numbers": None}, "6 channels.*check dimension_numbers"),
        ({"dimension_numbers": ("NHWC", "HWIO")}, "name every axis once"),
        ({"dimension_numbers": ("NHWC", "HWI", "NHWC")}, "name every axis once"),
        ({"w": jnp.ones((3, 3, 2, 4))}, "3 channels, but w.*2 inputs"),
        ({"feature_group_count": 2}, "feature_group_count=2|groups=2"),
        ({"feature_group_count": 0}, "groups=0"),
        ({"strides": 0}, r"stride=\(0, 0\) must be whole numbers of at least 1"),
        ({"strides": 1.5}, r"stride=\(1.5, 1.5\) must be whole numbers"),
        ({"strides": (1, 2, 3)}, "stride=.*3 values.*2 spatial dimensions"),
        ({"rhs_dilation": (1,)}, "dilation=.*1 values"),
        ({"padding": "same?"}, "padding='same.' is not known"),
        ({"padding": (1, 2, 3)}, "padding=.*does not fit 2 spatial dimensions"),
        ({"padding": ((1, 2, 3), (1, 2))}, "does not fit 2 spatial dimensions"),
        ({"b": jnp.ones(3)}, r"expected \(4,\)"),
    ],
)
def test_conv(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        conv(**arguments)


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ({"strides": np.array([2, 1])}, {"strides": (2, 1)}),
        ({"strides": np.int64(2)}, {"strides": 2}),
        ({"rhs_dilation": np.array(2)}, {"rhs_dilation": 2}),
        ({"padding": np.int64(1)}, {"padding": 1}),
        ({"padding": (np.int64(1), np.int32(0))}, {"padding": (1, 0)}),
        ({"padding": np.array([[1, 0], [2, 1]])}, {"padding": ((1, 0), (2, 1))}),
        ({"lam": np.array(0.2)}, {"lam": 0.2}),
        ({"lam": np.float64(0.2)}, {"lam": 0.2}),
        ({"feature_group_count": np.int64(1)}, {}),
    ],
    ids=str,
)
def test_settings_of_numpy(given, plain) -> None:
    def gradient(settings):
        return jax.grad(lambda w: conv(w=w, **settings).sum())(KERNEL)

    assert jnp.array_equal(gradient(given), gradient(plain))


def test_no_rows_is_not_an_error() -> None:
    assert tract_dense(jnp.ones((0, 3)), W).shape == (0, 2)
    assert conv(IMAGES[:0]).shape == (0, 6, 6, 4)


def test_functions() -> None:
    with pytest.raises(ValueError, match="expected a letter for each axis"):
        patch_gram(jnp.ones((2, 2)), 1)
    with pytest.raises(ValueError, match="layout='NHW'"):
        patch_gram(IMAGES, 1, layout="NHW")
    with pytest.raises(ValueError, match="by a letter of its own"):
        patch_gram(IMAGES, 1, layout="NHWX")
    with pytest.raises(ValueError, match="has no patches of size"):
        patch_gram(IMAGES, 7, layout="NHWC")
    with pytest.raises(ValueError, match="does not divide the input's 3 channels"):
        patch_gram(IMAGES, 1, groups=2, layout="NHWC")
    with pytest.raises(ValueError, match=r"A has shape \(3, 2\)"):
        factorise(W)
    with pytest.raises(ValueError, match="x is a scalar"):
        dense_sums(jnp.float32(1))
    with pytest.raises(ValueError, match="6 channels"):
        conv_sums(IMAGES, KERNEL, padding="SAME")
    with pytest.raises(ValueError, match="there are no rows"):
        precondition(W, X[:0], layout="IO")
    with pytest.raises(ValueError, match="rows of 2 entries, the statistics 3"):
        precondition(W, X, layout="OI")
    with pytest.raises(ValueError, match="3 letters"):
        precondition(W, X, layout="OIW")
    factor = factorise(jnp.eye(5))
    with pytest.raises(ValueError, match="the statistics 5 entries"):
        precondition_gradient(W, factor, layout="IO")
    with pytest.raises(ValueError, match="layout='HW'"):
        precondition_gradient(W, factor, layout="HW")
