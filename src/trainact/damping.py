r"""λ: how much of the identity is added to A, as it is or relative to A's own size.

A relative λ is in units of :math:`\operatorname{tr} A / n`, the mean square of the
input's entries: for standardised inputs that is about 1, and both are alike. With an
input c times as large A is :math:`c^2` times as large, G is c times; where the damping
grows with A, TrAct's gradient is then 1 / c times as large, and the change of the
pre-activations, which is the gradient times the input, is what it was. PyTorch and JAX
share this file.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Damping:
    r"""λ.

    Attributes:
        lam: the number; an array where JAX traces it.
        relative: whether it is in units of :math:`\operatorname{tr} A / n`.
    """

    lam: Any
    relative: bool = False

    def __str__(self) -> str:
        return f"lam={self.lam:g}" + (", relative=True" if self.relative else "")


class DampingWarning(UserWarning):
    """The inputs are so large that a larger λ acts than the one that was set."""


def resolution(products_eps: float, factorisation_eps: float) -> float:
    """Least λ in units of tr A that rounding leaves (departure 3 of `trainact.factor`).

    Of the dtype in which A's products were formed, and of that of its factorisation.
    """
    return max(products_eps / 4, 8 * factorisation_eps)


def check_damping(lam: Any, relative: Any) -> Damping:
    """λ from a user's two arguments, checked."""
    return Damping(check_lam(lam), check_relative(relative))


def check_lam(value: Any) -> float:
    """λ as a float; a ValueError if it is not a positive finite number."""
    not_a_number = isinstance(value, bool) or not isinstance(value, numbers.Real)
    if not_a_number or not math.isfinite(value) or value <= 0:
        msg = (
            f"lam={value!r} is not a positive finite number; the paper uses 0.1, and "
            "0.2 for long training (0.05 to 0.2 for standardised inputs)"
        )
        raise ValueError(msg)
    return float(value)


def check_relative(value: Any) -> bool:
    """The argument ``relative``; a TypeError if it is not a bool."""
    if not isinstance(value, bool):
        msg = (
            f"relative={value!r} is not True or False: give the number as lam=, and "
            "relative=True to have it in units of the mean square of the input"
        )
        raise TypeError(msg)
    return value


class Relative(Damping):
    """The name that a relative damping has in pickles of earlier versions."""

    def __new__(cls, lam: float) -> Damping:  # pyright: ignore[reportInconsistentConstructor]
        """Make the damping that stands for it today."""
        return Damping(lam, relative=True)
