"""How hypothesis draws: the same examples everywhere, or new ones in `make explore`."""

from __future__ import annotations

import os
import sys
from typing import Any

from hypothesis import HealthCheck, settings

# How many new examples `make explore` asks of every drawn test.
EXPLORE = int(os.environ.get("EXAMPLES", "0"))


def examples(count: int) -> settings:
    """The number of examples of a drawn test in `make test`."""
    return settings(max_examples=EXPLORE or count)


def load_profile() -> None:
    """Draw what every machine draws, or something new."""
    settings.register_profile(
        "trainact",
        deadline=None,
        print_blob=True,
        derandomize=not EXPLORE,
        max_examples=EXPLORE or 100,
        # How long drawing takes depends on what else the machine does.
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("trainact")
    # Hypothesis draws numbers and strings from the source of the project's modules that
    # are loaded. Which these are depends on what else a process has tested before.
    providers: Any = sys.modules.get("hypothesis.internal.conjecture.providers")
    if hasattr(providers, "_get_local_constants"):
        providers._get_local_constants = providers.Constants
