"""What a user may get wrong, said in the user's terms."""

from __future__ import annotations

import math
import numbers
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from trainact.jax.damping import Lam, Relative


def check_lam(lam: Any) -> float | Array:
    r"""Check a damping.

    Args:
        lam: :math:`\lambda`; a JAX array (a schedule's value) is taken as it is.

    Returns:
        It, as a float or a scalar array.

    Raises:
        ValueError: if it is not a positive finite number.
    """
    if isinstance(lam, np.ndarray | np.generic) and lam.ndim == 0:
        lam = lam.item()
    if isinstance(lam, Array):
        if lam.ndim == 0 and jnp.issubdtype(lam.dtype, jnp.floating):
            return lam
        msg = (
            f"lam has shape {lam.shape} and dtype {lam.dtype}; expected a float scalar"
        )
        raise ValueError(msg)
    not_a_number = isinstance(lam, bool) or not isinstance(lam, numbers.Real)
    if not_a_number or not math.isfinite(lam) or lam <= 0:
        msg = (
            f"lam={lam!r} is not a positive finite number; the paper uses 0.1, and "
            "0.2 for long training (0.05 to 0.2 for standardised inputs)"
        )
        raise ValueError(msg)
    return float(lam)


def check_damping(lam: Any, relative: Any) -> Lam:
    r"""Check a damping that may be relative.

    Args:
        lam: :math:`\lambda`, as for `check_lam`.
        relative: whether it is in units of tr A / n.

    Returns:
        Both in one.

    Raises:
        TypeError: if ``relative`` is not a bool: it decides what is compiled.
    """
    if not isinstance(relative, bool):
        msg = (
            f"relative={relative!r} is not True or False: give the number as lam=, and "
            "relative=True to have it in units of the mean square of the input"
        )
        raise TypeError(msg)
    lam = check_lam(lam)
    return Relative(lam) if relative else lam


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
