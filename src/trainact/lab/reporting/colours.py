"""One colour for each arm, the same in every picture and table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from matplotlib.colors import LinearSegmentedColormap, to_hex

from trainact.lab.plots import BASELINE_COLOUR
from trainact.lab.reporting.arms import ArmResult
from trainact.lab.summary import BASELINE

# λ from 1/16 to 16 times the default 0.1, an octave per colour: neighbours in the
# paper's sweep stay apart, and more λ is always warmer.
_LAMS = LinearSegmentedColormap.from_list(
    "lam",
    (
        "#3b1c6e",
        "#4338a8",
        "#2c5fd0",
        "#1e8fd0",
        "#1b9e5a",
        "#e39a0c",
        "#e0660f",
        "#c42b2b",
        "#85164f",
    ),
)
_OCTAVES = 8
_MIDDLE_LAM = 0.1
_WITHOUT_LAM = ("#8f3fb0", "#a0522d", "#d6469a", "#7a8b0f", "#0f8b8d")


def choose_colours(arms: Iterable[ArmResult]) -> dict[str, str]:
    """Give every arm of a page its colour.

    Args:
        arms: of all sections.

    Returns:
        Name of the arm -> colour in hexadecimal digits.
    """
    lams = {arm.label: arm.lam for arm in arms}
    plain = sorted(n for n, lam in lams.items() if lam is None and n != BASELINE)
    colours = {label: of_lam(lam) for label, lam in lams.items() if lam is not None}
    colours |= {name: _nth(_WITHOUT_LAM, n) for n, name in enumerate(plain)}
    return {**colours, BASELINE: to_hex(BASELINE_COLOUR)}


def of_lam(lam: float) -> str:
    """Give λ its colour.

    Args:
        lam: above 0.

    Returns:
        The colour in hexadecimal digits.
    """
    octaves = math.log2(lam / _MIDDLE_LAM)
    return to_hex(_LAMS(min(1.0, max(0.0, 0.5 + octaves / _OCTAVES))))


def _nth(values: Sequence[str], place: int) -> str:
    return values[place % len(values)]
