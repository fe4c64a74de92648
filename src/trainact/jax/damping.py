"""λ in JAX: a pytree whose number may be traced, such as a schedule's value.

Which of the two λ is, absolute or relative, decides what is compiled, so it belongs to
the tree's structure.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from trainact.damping import Damping, check_lam, check_relative

jax.tree_util.register_dataclass(Damping, ["lam"], ["relative"])


def check_damping(lam: Any, relative: Any) -> Damping:
    r"""Check both arguments that make a damping.

    Args:
        lam: :math:`\lambda`; a JAX array (a schedule's value) is taken as it is.
        relative: whether it is in units of tr A / n.

    Returns:
        Both in one; the number is a float or a scalar array.

    Raises:
        ValueError: if λ is not a positive finite number, or an array of another kind.
        TypeError: if ``relative`` is not a bool.
    """
    relative = check_relative(relative)
    if not isinstance(lam, Array):
        is_scalar = isinstance(lam, np.ndarray | np.generic) and lam.ndim == 0
        return Damping(check_lam(lam.item() if is_scalar else lam), relative)
    if lam.ndim or not jnp.issubdtype(lam.dtype, jnp.floating):
        msg = (
            f"lam has shape {lam.shape} and dtype {lam.dtype}; expected a float scalar"
        )
        raise ValueError(msg)
    return Damping(lam, relative)
