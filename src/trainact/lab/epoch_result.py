"""What one epoch of a run gave."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class EpochResult:
    """What one epoch gave.

    Attributes:
        accuracy: on the test images after the epoch; mAP for detection.
        top5: likewise, of the five most likely classes; None for few classes.
        loss: mean over the epoch's training images; may be infinite or NaN.
        seconds: training, without evaluation and compilation.
        eval_seconds: evaluation.
        compile_seconds: first step and first test of a compiled model.
    """

    accuracy: float
    top5: float | None
    loss: float
    seconds: float
    eval_seconds: float
    compile_seconds: float


def is_lost(history: list[EpochResult]) -> bool:
    """Whether a run ended because its loss was not finite.

    Args:
        history: of the run so far.

    Returns:
        True if the last epoch's loss is infinite or NaN.
    """
    return bool(history) and not math.isfinite(history[-1].loss)
