"""In which precision statistics are formed, whatever JAX's settings say.

JAX has float64 switched off by default. Here it is switched on around the few steps
that need it, under every transformation, and nothing of it is seen outside. TPUs
emulate float64 and Metal has none: there everything is float32 (`accumulation_dtype`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import numpy as np
from jax import Array, lax

# Backends with float64 in hardware, as `jax.default_backend` names them.
FLOAT64_BACKENDS = ("cpu", "gpu", "cuda", "rocm")

Dtype = np.dtype[Any]


def statistics_dtype(dtype: Any) -> Dtype:
    """Dtype in which products of input entries are formed: float32 or wider.

    Args:
        dtype: of a layer's input.

    Returns:
        float64 for float64, otherwise float32.
    """
    return np.dtype(np.float64 if np.dtype(dtype) == np.float64 else np.float32)


def accumulation_dtype(dtype: Any) -> Dtype:
    """Dtype in which blocks are summed and systems are factorised.

    Args:
        dtype: of a layer's input.

    Returns:
        float64; float32 on TPU and Metal, unless the input is float64 itself.
    """
    if jax.default_backend() in FLOAT64_BACKENDS:
        return np.dtype(np.float64)
    return statistics_dtype(dtype)


def float64_allowed(*dtypes: Dtype) -> AbstractContextManager[Any]:
    """Let the operations inside make float64 arrays, if one of the dtypes asks for it.

    Args:
        dtypes: that will be used.

    Returns:
        A context; it works inside jit, grad, vmap, scan and checkpoint.
    """
    if not any(dtype == np.float64 for dtype in dtypes):
        return nullcontext()
    return jax.enable_x64(True)


def cast(x: Array, dtype: Dtype) -> Array:
    """Convert, where float64 is allowed also to that.

    Args:
        x: any array.
        dtype: to convert to.

    Returns:
        The array in that dtype.
    """
    return lax.convert_element_type(x, dtype)


def product(
    first: Array, second: Array, contract: tuple[int, int], num_batch: int = 1
) -> Array:
    """Sum of products over one axis, never rounded to TF32 or bfloat16.

    Args:
        first: a matrix for each index of its leading batch axes.
        second: likewise, in the same dtype.
        contract: the axis of each that is summed over.
        num_batch: number of leading batch axes.

    Returns:
        ``[*batch, rest of first, rest of second]``.
    """
    batch: Sequence[int] = tuple(range(num_batch))
    dims = (((contract[0],), (contract[1],)), (batch, batch))
    return lax.dot_general(first, second, dims, precision=lax.Precision.HIGHEST)
