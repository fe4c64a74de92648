r"""How much of the identity is added to A: λ as it is, or relative to A's own size.

A relative λ is in units of :math:`\operatorname{tr} A / n`, the mean square of the
input's entries. With an input c times as large A is :math:`c^2` times as large and G is
c times; where the damping grows with A, TrAct's gradient is 1 / c times as large, and
the change of the pre-activations, which is the gradient times the input, is what it
was.

Legend: G groups.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from trainact.jax.precision import Dtype


class Relative(NamedTuple):
    r"""A damping in units of the mean square of the input's entries; a pytree.

    Which of the two λ is belongs to the tree's structure and so is never traced.

    Attributes:
        lam: times :math:`\operatorname{tr} A / n` it is :math:`\lambda`.
    """

    lam: float | Array


# λ, or how it is to be found for each input.
Lam = float | Array | Relative


def resolve(lam: Lam, trace_G: Array, num_entries: int, dtype: Dtype) -> Array:
    r"""Say what is added to the diagonal of A.

    Args:
        lam: λ.
        trace_G: tr A, in the dtype of the factorisation.
        num_entries: n.
        dtype: in which A's products were formed.

    Returns:
        At least what the rounding allows, ``[G]``. Nothing but zeros has no size: there
        a relative λ is taken as it is.
    """
    products, factorisation = np.finfo(dtype), np.finfo(trace_G.dtype)
    number = lam.lam if isinstance(lam, Relative) else lam
    number = jnp.asarray(number).astype(trace_G.dtype)
    wanted_G = jnp.broadcast_to(number, trace_G.shape)
    if isinstance(lam, Relative):
        wanted_G = jnp.where(trace_G > 0, wanted_G * (trace_G / num_entries), wanted_G)
    # As in `trainact.damping.resolution`.
    resolution = max(float(products.eps) / 4, 8 * float(factorisation.eps))
    floor_G = jnp.maximum(resolution * trace_G, float(products.tiny))
    return jnp.maximum(floor_G, wanted_G)
