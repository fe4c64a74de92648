"""Seeds derived from seeds: what is drawn depends on what it is for alone."""

from __future__ import annotations

import numpy as np


def derive_seed(*parts: int) -> int:
    """Mix whole numbers into one seed.

    Args:
        parts: such as a run's seed, an epoch and what is drawn; none negative.

    Returns:
        32 bits, all that torch's generator on the CPU keeps; alike on every machine.
    """
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
