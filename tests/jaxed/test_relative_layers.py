"""`relative=True` on operations and layers of Flax and Equinox, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import trainact.jax.equinox
import trainact.jax.linen
import trainact.jax.nnx
from tests.tolerances import FLOAT32_PROMISE, relative_error
from trainact.jax import (
    ConvGeneralDilated,
    DotGeneral,
    factorise,
    precondition,
    tract_conv,
    tract_dense,
)

LAM = 0.2
NHWC = ("NHWC", "HWIO", "NHWC")


@pytest.fixture(autouse=True)
def strict_jax() -> None:
    """Flax and Equinox need implicit conversions: not in this module."""


def images(*shape: int) -> jax.Array:
    """Of a mean square of some hundreds, at which λ on its own does nothing."""
    return 20 * jax.random.normal(jax.random.key(0), shape)


def conv(x: Any, w: Any, **more: Any) -> jax.Array:
    settings: dict[str, Any] = {"padding": "SAME", "dimension_numbers": NHWC}
    return tract_conv(x, w, lam=LAM, **settings | more)


def dense(x: Any, w: Any, **more: Any) -> jax.Array:
    return tract_dense(x, w, lam=LAM, **more)


def check(found: Any, layer: Callable[..., Any], x: Any, w: Any, **more: Any) -> None:
    """A kernel's gradient of the sum of the values, to which a bias adds nothing."""

    def loss(w: Any, relative: bool) -> jax.Array:
        return layer(x, w, relative=relative, **more).sum()

    expected, absolute = (jax.grad(loss)(w, relative) for relative in (True, False))
    assert relative_error(found, expected) < FLOAT32_PROMISE
    assert relative_error(found, absolute) > 0.01


def test_nnx() -> None:
    def loss(layer: Any, x: jax.Array) -> jax.Array:
        return layer(x).sum()

    x = images(4, 9, 9, 4)
    for groups in (1, 2):
        layer = nnx.Conv(4, 8, (3, 3), feature_group_count=groups, rngs=nnx.Rngs(0))
        trainact.jax.nnx.apply(layer, LAM, relative=True)
        found = nnx.grad(loss)(layer, x).kernel[...]
        check(found, conv, x, layer.kernel[...], feature_group_count=groups)
    for rows in (images(16, 6), images(4, 6)):
        layer = nnx.Linear(6, 4, rngs=nnx.Rngs(0))
        trainact.jax.nnx.apply(layer, LAM, relative=True)
        check(nnx.grad(loss)(layer, rows).kernel[...], dense, rows, layer.kernel[...])


@pytest.mark.parametrize(
    ("layer", "function", "shape"),
    [
        (
            trainact.jax.linen.Conv(8, (3, 3), lam=LAM, relative=True),
            conv,
            (4, 9, 9, 2),
        ),
        (trainact.jax.linen.Dense(4, lam=LAM, relative=True), dense, (16, 6)),
    ],
)
def test_linen(layer: Any, function: Callable[..., Any], shape: Any) -> None:
    x = images(*shape)
    params = layer.init(jax.random.key(0), x)

    def loss(params: Any) -> jax.Array:
        return layer.apply(params, x).sum()

    found = jax.grad(loss)(params)["params"]["kernel"]
    check(found, function, x, params["params"]["kernel"])


def test_equinox() -> None:
    one, two = jax.random.split(jax.random.key(0))
    layers = (eqx.nn.Conv2d(4, 8, 3, groups=2, key=one), eqx.nn.Linear(6, 4, key=two))
    inputs = images(4, 4, 9, 9), images(16, 6)
    layers = trainact.jax.equinox.apply(layers, lambda pair: pair, LAM, relative=True)

    def loss(layer: Any, x: jax.Array) -> jax.Array:
        return jax.vmap(layer, axis_name="batch")(x).sum()

    first, second = (
        eqx.filter_grad(loss)(layer, x).weight
        for layer, x in zip(layers, inputs, strict=True)
    )
    settings = {"padding": "VALID", "dimension_numbers": None}
    kernel = layers[0].weight
    check(first, conv, inputs[0], kernel, feature_group_count=2, **settings)
    check(second.T, dense, inputs[1], layers[1].weight.T)


def test_it_is_shown_and_taken_off() -> None:
    for kind in (ConvGeneralDilated, DotGeneral):
        assert "(lam=0.1, relative=True, " in repr(kind(relative=True))
        assert kind(relative=True) == kind(relative=True)
        assert kind(relative=True) != kind()
        assert hash(kind(relative=True)) == hash(kind(relative=True))
    plain = eqx.nn.Linear(3, 2, key=jax.random.key(0))
    layer = trainact.jax.equinox.apply(plain, lambda m: m, relative=True)
    assert "relative=True" in repr(layer)
    assert trainact.jax.equinox.remove(layer, lambda m: m) == plain
    model: Any = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    before = model.dot_general
    trainact.jax.nnx.apply(model, relative=True)
    assert model.dot_general.relative
    assert trainact.jax.nnx.remove(model).dot_general is before


def entrances() -> list[Callable[[Any], Any]]:
    """Everything that takes ``relative``."""
    x, w = jnp.ones((4, 3)), jnp.ones((3, 2))
    images, kernel = jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 3, 2))
    first = eqx.nn.Linear(3, 2, key=jax.random.key(0))
    layer = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    return [
        lambda value: dense(x, w, relative=value),
        lambda value: conv(images, kernel, relative=value),
        lambda value: factorise(jnp.eye(3), relative=value),
        lambda value: precondition(w, x, layout="IO", relative=value),
        lambda value: ConvGeneralDilated(relative=value),
        lambda value: DotGeneral(relative=value),
        lambda value: trainact.jax.nnx.apply(layer, relative=value),
        lambda value: trainact.jax.linen.Conv(2, (3, 3), relative=value),
        lambda value: trainact.jax.linen.Dense(2, relative=value),
        lambda value: trainact.jax.equinox.apply(first, lambda m: m, relative=value),
    ]


@pytest.mark.parametrize("value", ["yes", 1, None, 0.1])
def test_what_is_no_bool_is_refused(value: Any) -> None:
    for call in entrances():
        with pytest.raises(TypeError, match=r"relative=.* is not True or False: give"):
            call(value)


def test_it_cannot_be_traced() -> None:
    call, *_ = entrances()
    with pytest.raises(TypeError, match=r"relative=.* is not True or False"):
        jax.jit(call)(True)
