"""What holds for every test: seeds, and NaN in uninitialised memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from .drawing import load_profile

load_profile()


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fill what torch.empty returns with NaN, and seed torch."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
