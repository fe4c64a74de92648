"""What a user may get wrong, said in the user's terms."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array


def check_floating(name: str, x: Any) -> Array:
    """Check an array of real floating numbers.

    Args:
        name: of the argument.
        x: a JAX or NumPy array.

    Returns:
        It, as a JAX array.

    Raises:
        ValueError: if its dtype is another one.
    """
    array = jnp.asarray(x)
    if jnp.iscomplexobj(array):
        msg = (
            f"{name} has dtype {array.dtype}, but TrAct is for real numbers: leave a "
            "layer of complex numbers an ordinary one"
        )
        raise ValueError(msg)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        msg = (
            f"{name} has dtype {array.dtype}, but TrAct needs floating numbers: "
            f"convert it, images also to unit scale, {name}.astype('float32') / 255"
        )
        raise ValueError(msg)
    return array


def check_layer(x: Array, w: Array, b: Array | None, outputs: int) -> None:
    """Check what dense layers and convolutions have in common.

    Args:
        x: the input.
        w: the kernel.
        b: the bias.
        outputs: output features.

    Raises:
        ValueError: if dtypes differ or the bias has another shape.
    """
    dtypes = {"x": x.dtype, "w": w.dtype} | ({} if b is None else {"b": b.dtype})
    if len(set(dtypes.values())) > 1:
        seen = ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
        msg = f"dtypes differ ({seen}): cast to one, such as x.astype(w.dtype)"
        raise ValueError(msg)
    if b is not None and b.shape != (outputs,):
        msg = (
            f"b has shape {b.shape}; expected ({outputs},), one for each output feature"
        )
        raise ValueError(msg)
