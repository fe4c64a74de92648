"""Seeds derived from seeds: what is drawn depends on what it is for alone."""

from __future__ import annotations

import numpy as np


def derive_seed(*parts: int) -> int:
    """Mix whole numbers into one seed.

    Args:
        parts: such as a run's seed and an epoch; none negative.

    Returns:
        A number from 0 to 2**63 - 1, the same on every machine.
    """
    state = np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]
    return int(state) & (2**63 - 1)
