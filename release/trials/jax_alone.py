"""What the extra ``jax`` does where nothing of the others is installed."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from shared import absent, agree, import_all

from trainact import reference

LAM = 0.1


def imports() -> None:
    """Import every module of the extra."""
    absent("lightning", "timm", "torchvision", "transformers")
    import_all("jax")


def smoke() -> None:
    """A dense layer, by itself and in each kind of network, beside the oracle."""
    jax.config.update("jax_enable_x64", True)
    random = np.random.default_rng(0)
    x_NP = random.standard_normal((16, 6))
    w_PO = random.standard_normal((6, 3))
    z_NO = x_NP @ w_PO
    # of the loss mean(z²)
    truth = reference.tract_gradient(2 * z_NO / z_NO.size, x_NP, LAM).T
    agree("jax: tract_dense", _dense(x_NP, w_PO), truth)
    agree("flax: nnx.Linear", _nnx(x_NP, w_PO), truth)
    agree("equinox: nn.Linear", _equinox(x_NP, w_PO), truth)


def _dense(x_NP: Any, w_PO: Any) -> Any:
    from trainact.jax import tract_dense

    def loss(w: Any) -> Any:
        return (tract_dense(x_NP, w, lam=LAM) ** 2).mean()

    return jax.jit(jax.grad(loss))(w_PO)


def _nnx(x_NP: Any, w_PO: Any) -> Any:
    from flax import nnx

    import trainact.jax.nnx

    class Network(nnx.Module):
        def __init__(self) -> None:
            self.stem = nnx.Linear(6, 3, param_dtype=float, rngs=nnx.Rngs(0))
            self.stem.kernel[...] = jax.numpy.asarray(w_PO)

        def __call__(self, x: Any) -> Any:
            return self.stem(x)

    network = trainact.jax.nnx.apply(Network(), layer="stem", lam=LAM)
    gradient = nnx.grad(lambda network: (network(x_NP) ** 2).mean())(network)
    return gradient["stem"]["kernel"][...]


def _equinox(x_NP: Any, w_PO: Any) -> Any:
    import equinox as eqx

    import trainact.jax.equinox

    plain = eqx.nn.Linear(6, 3, use_bias=False, key=jax.random.key(0))
    plain = eqx.tree_at(lambda layer: layer.weight, plain, jax.numpy.asarray(w_PO.T))
    model = trainact.jax.equinox.apply(plain, lambda layer: layer, lam=LAM)

    @eqx.filter_grad
    def gradient(model: Any) -> Any:
        return (jax.vmap(model, axis_name="batch")(x_NP) ** 2).mean()

    return gradient(model).weight.T


if __name__ == "__main__":
    imports()
    smoke()
