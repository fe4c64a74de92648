"""What hypothesis draws does not depend on what a process has imported."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .drawing import EXPLORE


@pytest.mark.skipif(EXPLORE > 0, reason="`make explore` draws something new each time")
def test_draws_do_not_depend_on_loaded_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[int, str]] = []

    @settings(max_examples=200)
    @given(st.integers(0, 2**32 - 1), st.text())
    def draw(number: int, text: str) -> None:
        drawn.append((number, text))

    draw()
    before = drawn.copy()
    drawn.clear()
    path = tmp_path / "numbers_of_a_project.py"
    path.write_text(f"NUMBERS = {list(range(1000, 1200))}\nWORD = 'a word of it'\n")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    monkeypatch.setitem(sys.modules, path.stem, importlib.util.module_from_spec(spec))
    draw()
    assert drawn == before
