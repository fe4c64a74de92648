"""Which of these tests need what: Triton, its interpreter, or neither."""

from __future__ import annotations

import pytest

from trainact.kernels.choice import INSTALLED, INTERPRETED

needs_triton = pytest.mark.skipif(not INSTALLED, reason="Triton is not installed")
needs_interpreter = pytest.mark.skipif(
    not INTERPRETED, reason="TRITON_INTERPRET=1 is not set; test_interpreter sets it"
)
