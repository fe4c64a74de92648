"""Axes that are mapped around the layers, in every order and nesting.

Rows along axes that share a name, which the layer is given, are one batch. Every other
index is a batch of its own, whether its axis is mapped or looped over, inside the
gradient or outside: the kernel's gradient is the sum of G (A + λI)⁻¹ over the batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

import trainact.jax.linen
import trainact.jax.nnx
from tests.drawing import examples
from tests.tolerances import FLOAT32_PROMISE, relative_error
from trainact import reference
from trainact.jax import (
    DotGeneral,
    factorise,
    patch_gram,
    precondition,
    tract_conv,
    tract_dense,
)

from .cases import size_of

LAM = 0.1
ENTRIES, OUTPUTS = 4, 3


def dense(x, w, **settings):
    return tract_dense(x, w, lam=LAM, **settings)


def conv(x, w, **settings):
    """The same rows as patches of two images."""
    z = tract_conv(
        x.reshape(2, -1, 1),
        w[:, None],
        lam=LAM,
        strides=ENTRIES,
        padding="VALID",
        dimension_numbers=("NWC", "WIO", "NWC"),
        **settings,
    )
    return z.reshape(-1, OUTPUTS)


def operation(x, w, **settings):
    return DotGeneral(LAM, **settings)(x, w, (((1,), (0,)), ((), ())))


def by_rows(x, w, **settings):
    rows = x.reshape(2, -1, ENTRIES)  # every vector is one
    return x @ precondition(w.T, rows, LAM, layout="OI", **settings).T


def by_factor(x, w, *, axis_name=None, relative=False):
    gram = patch_gram(x[:, :, None], 1, axis_name=axis_name)
    factor = factorise(gram, LAM, relative=relative)
    return x @ precondition(w, factor, layout="IO")


LAYERS = [dense, conv, operation, by_rows, by_factor]


@dataclass(frozen=True)
class Level:
    """An axis: how it is gone over, its size, and whether it joins its rows."""

    kind: str
    size: int
    name: str | None = None


def over(level: Level, function: Callable[..., Any]) -> Callable[..., Any]:
    """Sum a function of x and the output's gradient over an axis of both."""

    def total(x, grad_z):
        if level.kind == "vmap":
            return jax.vmap(function, axis_name=level.name)(x, grad_z).sum(0)
        if level.kind == "vmap, last axis":
            last = jnp.moveaxis(x, 0, -1)
            mapped = jax.vmap(function, (-1, 0), -1, axis_name=level.name)
            return mapped(last, grad_z).sum(-1)
        if level.kind == "scan":
            shape = jax.eval_shape(function, x[0], grad_z[0])

            def add(total, one):
                return total + function(*one), None

            zeros = jnp.zeros(shape.shape, shape.dtype)
            return lax.scan(add, zeros, (x, grad_z))[0]
        sizes = {"map": None, "map in parts": 2}
        parts = lax.map(
            lambda one: function(*one), (x, grad_z), batch_size=sizes[level.kind]
        )
        return parts.sum(0)

    return total


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "": lambda function: function,
    "jit": jax.jit,
    "checkpoint": jax.checkpoint,
}


KINDS = ["vmap", "vmap", "vmap, last axis", "map", "map in parts", "scan"]


@st.composite
def nestings(draw) -> tuple[tuple[Level, ...], tuple[str, ...]]:
    """Levels, outermost first, and what is around each and around the layer."""
    levels = []
    for number in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(KINDS))
        named = kind.startswith("vmap") and draw(st.booleans())
        size = draw(st.integers(1, 3))
        levels.append(Level(kind, size, f"axis{number}" if named else None))
    wrappers = [draw(st.sampled_from(list(WRAPPERS))) for _ in [*levels, None]]
    return tuple(levels), tuple(wrappers)


def terms(
    x: np.ndarray,
    grad_z: np.ndarray,
    levels: tuple[Level, ...],
    relative: bool = False,
) -> list[np.ndarray]:
    """What each batch contributes to the kernel's gradient."""
    named = [axis for axis, level in enumerate(levels) if level.name]
    count = int(np.prod([level.size for level in levels if not level.name], dtype=int))
    batches = []
    for array in (grad_z, x):
        last = np.moveaxis(array, named, range(-2 - len(named), -2))
        batches.append(last.reshape(count, -1, array.shape[-1]).astype("float64"))
    pairs = zip(*batches, strict=True)
    return [
        reference.tract_gradient(grad, rows, LAM * size_of(rows, relative)).T
        for grad, rows in pairs
    ]


@given(
    layer=st.sampled_from(LAYERS),
    rows=st.sampled_from([2, 6]),
    nesting=nestings(),
    inside=st.integers(0, 3),
    is_compiled=st.booleans(),
    relative=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@examples(80)
def test_every_index_counts_once(
    layer, rows, nesting, inside, is_compiled, relative, seed
) -> None:
    levels, wrappers = nesting
    names = tuple(level.name for level in levels if level.name) or None
    rng = np.random.default_rng(seed)
    shape = (*(level.size for level in levels), rows)
    x = rng.standard_normal((*shape, ENTRIES)).astype("float32")
    grad_z = rng.standard_normal((*shape, OUTPUTS)).astype("float32")

    def gradient(w, x, grad_z):
        def nested(function, number: int, stop: int):
            """A function within the levels from one to another."""
            if number < stop:
                function = over(levels[number], nested(function, number + 1, stop))
            return WRAPPERS[wrappers[number]](function)

        place = max(0, len(levels) - inside)  # of the gradient among the levels

        def of_kernel(x, grad_z):
            def loss(w):
                def leaf(x, grad_z):
                    z = layer(x, w, axis_name=names, relative=relative)
                    return (z * grad_z).sum()

                return nested(leaf, place, len(levels))(x, grad_z)

            return jax.grad(loss)(w)

        return nested(of_kernel, 0, place)(x, grad_z)

    run = jax.jit(gradient) if is_compiled else gradient
    w = jnp.asarray(rng.standard_normal((ENTRIES, OUTPUTS)), "float32")
    batches = terms(x, grad_z, levels, relative)
    error = np.linalg.norm(run(w, x, grad_z) - sum(batches))
    assert error < FLOAT32_PROMISE * sum(map(np.linalg.norm, batches))


BATCHES, ROWS = 3, 6


def batches() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCHES, ROWS, ENTRIES)).astype("float32")
    return x, rng.standard_normal((BATCHES, ROWS, OUTPUTS)).astype("float32")


class Shared(nn.Module):
    """One layer of Linen, mapped over batches."""

    @nn.compact
    def __call__(self, x):
        mapped = nn.vmap(
            lambda layer, x: layer(x),
            variable_axes={"params": None},
            split_rngs={"params": False},
        )
        return mapped(trainact.jax.linen.Dense(OUTPUTS, lam=LAM), x)


def of_linen(x, grad_z):
    params = Shared().init(jax.random.key(0), x)
    grads = jax.grad(lambda params: (Shared().apply(params, x) * grad_z).sum())(params)
    return grads["params"]["Dense_0"]["kernel"]


def of_nnx(x, grad_z):
    layer = nnx.Linear(ENTRIES, OUTPUTS, rngs=nnx.Rngs(0))
    mapped = nnx.vmap(lambda layer, x: layer(x), in_axes=(None, 0))

    def loss(layer):
        return (mapped(layer, x) * grad_z).sum()

    grads = nnx.grad(loss)(trainact.jax.nnx.apply(layer, LAM))
    return grads["kernel"][...]


@pytest.mark.parametrize("gradient", [of_linen, of_nnx])
def test_flax_maps_a_layer_over_batches(gradient) -> None:
    x, grad_z = batches()
    levels = (Level("vmap", BATCHES),)
    assert relative_error(gradient(x, grad_z), sum(terms(x, grad_z, levels))) < (
        FLOAT32_PROMISE
    )


@pytest.mark.parametrize("is_compiled", [False, True])
def test_no_value_changes(is_compiled: bool) -> None:
    x, _ = batches()
    x[0, 1, 2], x[1, 0, 0] = np.nan, np.inf
    w = jnp.asarray([[-0.0, np.nan, 1e-40], [np.inf, 1.0, -1.0]], "float32")

    def mark(w, x):
        return jax.vmap(lambda x: precondition(w, x, LAM, layout="OI"))(x)

    w = jnp.pad(w, ((0, 0), (0, ENTRIES - 3)))
    found = (jax.jit(mark) if is_compiled else mark)(w, x)
    wanted = np.broadcast_to(w, (BATCHES, *w.shape))
    assert np.array_equal(np.asarray(found).view("int32"), wanted.view("int32"))


def test_the_compiler_drops_statistics_that_nobody_needs() -> None:
    x, _ = batches()

    def total(w):  # x is a constant of NumPy
        mapped = jax.vmap(lambda x: dense(x, w, axis_name="axis"), axis_name="axis")
        return mapped(x).sum()

    w = jnp.ones((ENTRIES, OUTPUTS))
    texts = [jax.jit(f).lower(w).compile().as_text() for f in (jax.grad(total), total)]
    assert ["potrf" in text for text in texts] == [True, False]
