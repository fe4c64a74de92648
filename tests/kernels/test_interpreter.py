"""Runs the kernels' tests on the CPU, in a process with Triton's interpreter.

Triton reads TRITON_INTERPRET when it is imported, so that it cannot be set for some
tests of a process alone. By hand: ``TRITON_INTERPRET=1 pytest tests/kernels``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from trainact.kernels.choice import INTERPRETED

from .conftest import needs_triton

HERE = Path(__file__).parent
FILES = (("test_gram.py", "test_inverse.py"), ("test_ways.py", "test_benchmark.py"))


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter's process")
@pytest.mark.parametrize("names", FILES, ids=" ".join)
def test_under_the_interpreter(names: tuple[str, ...]) -> None:
    # One thread: the interpreter is NumPy on small matrices.
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    arguments = ["-q", "-p", "no:cacheprovider", *(str(HERE / name) for name in names)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        env=environment, cwd=HERE.parents[1],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr
    assert re.search(r"\d+ passed in", done.stdout), done.stdout  # and none skipped
