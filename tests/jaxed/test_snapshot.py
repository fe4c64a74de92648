"""The part of the snapshot that JAX has: the same names, the same curves."""

from __future__ import annotations

import jax
import pytest
from jax import numpy as jnp

from tests.snapshot import contents
from tests.tolerances import CURVE_RTOL
from trainact.jax import tract_conv, tract_dense


def test_public_names_and_signatures() -> None:
    assert not contents.api_changes(contents.JAX_MODULES)


def mlp(w, x):
    return jnp.tanh(tract_dense(x, w["0.weight"].T, w["0.bias"]))


def cnn(w, x):
    z = tract_conv(x, w["0.weight"], w["0.bias"], padding=1)
    return jnp.tanh(z).reshape(len(x), -1)


@pytest.mark.parametrize(("hidden", "last"), [(mlp, "2"), (cnn, "3")])
def test_curve(hidden, last: str) -> None:
    def loss(w, x, y):
        z = hidden(w, x) @ w[f"{last}.weight"].T + w[f"{last}.bias"]
        return -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1).mean()

    name, losses = hidden.__name__, []
    with jax.enable_x64(True):
        model, tensors = contents.network(name), contents.batch(name)
        x, y = (jnp.asarray(tensor.numpy()) for tensor in tensors)
        w = {k: jnp.asarray(v.numpy()) for k, v in model.state_dict().items()}
        momenta = jax.tree.map(jnp.zeros_like, w)
        value_and_grad = jax.jit(jax.value_and_grad(loss))
        for _ in range(contents.STEPS):
            value, gradient = value_and_grad(w, x, y)
            losses.append(float(value))
            momenta = jax.tree.map(
                lambda m, g: contents.MOMENTUM * m + g, momenta, gradient
            )
            w = jax.tree.map(lambda p, m: p - contents.RATE * m, w, momenta)
    assert contents.largest_change(name, losses) < CURVE_RTOL
