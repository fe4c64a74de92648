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
from typing import Any, NamedTuple

import torch
from torch import Tensor


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
        dtype: in which A's products were formed: less than 8 of its eps times tr A is
            lost in their rounding (departure 3 of `trainact.factor`).

    Returns:
        At least what the rounding allows, ``[G]``. Nothing but zeros has no size: there
        a relative λ is taken as it is.
    """
    number, relative = flatten(lam)
    info = torch.finfo(dtype)
    wanted_G = torch.full_like(trace_G, max(number, info.tiny))
    if relative:
        scaled_G = trace_G * (number / num_entries)
        wanted_G = torch.where(trace_G > 0, scaled_G.clamp(min=info.tiny), wanted_G)
    return torch.maximum(8 * info.eps * trace_G, wanted_G)


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
