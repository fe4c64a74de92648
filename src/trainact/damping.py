r"""How much of the identity is added to A: λ as it is, or relative to A's own size.

A relative λ is in units of :math:`\operatorname{tr} A / n`, the mean square of the
input's entries: for standardised inputs that is about 1, and both are alike. With an
input c times as large A is :math:`c^2` times as large, G is c times; where the damping
grows with A, TrAct's gradient is then 1 / c times as large, and the change of the
pre-activations, which is the gradient times the input, is what it was.

Legend: G groups, P entries of a row.
"""

from __future__ import annotations

import math
import numbers
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainact.torch_internals import is_readable


class Relative(NamedTuple):
    r"""A damping in units of the mean square of the input's entries.

    Attributes:
        lam: times :math:`\operatorname{tr} A / n` it is :math:`\lambda`.
    """

    lam: float


# λ, or how it is to be found for each input.
Lam = float | Relative


def flatten(lam: Lam) -> tuple[float, bool]:
    """Take a damping apart, for operators, which take no objects.

    Args:
        lam: λ.

    Returns:
        The number, and whether it is relative.
    """
    return (lam.lam, True) if isinstance(lam, Relative) else (lam, False)


def unflatten(lam: float, relative: bool) -> Lam:
    """Put a damping together.

    Args:
        lam: the number.
        relative: whether it is relative.

    Returns:
        λ.
    """
    return Relative(lam) if relative else lam


def describe(lam: float, relative: bool) -> str:
    """Show a damping as `repr` does.

    Args:
        lam: the number.
        relative: whether it is relative.

    Returns:
        The arguments that make it.
    """
    return f"lam={lam:g}" + (", relative=True" if relative else "")


def resolve(lam: Lam, trace_G: Tensor, num_entries: int, dtype: torch.dtype) -> Tensor:
    r"""Say what is added to the diagonal of A.

    Args:
        lam: λ.
        trace_G: tr A, in the dtype of the factorisation.
        num_entries: n.
        dtype: in which A's products were formed.

    Returns:
        At least `resolution` times tr A, ``[G]``. Nothing but zeros has no size: there
        a relative λ is taken as it is.
    """
    number, relative = flatten(lam)
    tiny = torch.finfo(dtype).tiny
    wanted_G = torch.full_like(trace_G, max(number, tiny))
    if relative:
        scaled_G = trace_G * (number / num_entries)
        wanted_G = torch.where(trace_G > 0, scaled_G.clamp(min=tiny), wanted_G)
    return torch.maximum(resolution(dtype, trace_G.dtype) * trace_G, wanted_G)


def resolution(products: torch.dtype, factorisation: torch.dtype) -> float:
    """Least λ in units of tr A that rounding leaves (departure 3 of `trainact.factor`).

    Args:
        products: dtype in which A's products were formed.
        factorisation: dtype of its sums and its Cholesky factor.

    Returns:
        The larger of what the two need.
    """
    return max(torch.finfo(products).eps / 4, 8 * torch.finfo(factorisation).eps)


class DampingWarning(UserWarning):
    """The inputs are so large that a larger λ acts than the one that was set."""


_looked_at: set[tuple[int, torch.dtype, torch.device]] = set()


def warn_once_if_raised(
    lam: Lam, products_GPP: Tensor, num_rows: int, dtype: torch.dtype
) -> None:
    """Say that `resolve` takes a larger λ than was set.

    Looks at the first factorisation for each number of entries, dtype and device, and
    waits for the device there, never again. Silent in compiled code and transforms and
    while a CUDA graph is captured, where no value can be read.

    Args:
        lam: λ.
        products_GPP: b times A.
        num_rows: b.
        dtype: in which the products were formed.
    """
    if torch.compiler.is_compiling():
        return
    size = products_GPP.shape[-1]
    key = (size, dtype, products_GPP.device)
    if key in _looked_at or not is_readable(products_GPP):
        return
    _looked_at.add(key)
    trace = products_GPP.diagonal(dim1=-2, dim2=-1).sum(-1).max().item() / num_rows
    number, relative = flatten(lam)
    wanted = number * trace / size if relative else number
    least = resolution(dtype, products_GPP.dtype) * trace
    if wanted < least < math.inf:
        msg = (
            f"lam={wanted:.3g} is below what float32 sums can resolve for inputs of "
            f"mean square {trace / size:.3g}, so {least:.3g} is used in its place: "
            "standardise the inputs, or set relative=True"
        )
        warnings.warn(msg, DampingWarning, stacklevel=2)


def check_lam(value: float) -> float:
    r"""Check a damping.

    Args:
        value: :math:`\lambda`.

    Returns:
        It, as a float.

    Raises:
        ValueError: if it is not a positive finite number.
    """
    number: Any = value
    not_a_number = isinstance(number, bool) or not isinstance(number, numbers.Real)
    if not_a_number or not math.isfinite(number) or number <= 0:
        msg = (
            f"lam={value!r} is not a positive finite number; the paper uses 0.1, and "
            "0.2 for long training (0.05 to 0.2 for standardised inputs)"
        )
        raise ValueError(msg)
    return float(value)


def check_relative(value: Any) -> bool:
    """Check the ``relative`` argument.

    Args:
        value: whether λ is in units of tr A / n.

    Returns:
        It.

    Raises:
        TypeError: if it is not a bool.
    """
    if not isinstance(value, bool):
        msg = (
            f"relative={value!r} is not True or False: give the number as lam=, and "
            "relative=True to have it in units of the mean square of the input"
        )
        raise TypeError(msg)
    return value
