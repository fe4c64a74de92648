"""The code of the JAX page and of the examples runs."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from trainact import cli
from trainact.lab.records import RecordFile

ROOT = Path(__file__).parents[2]
BLOCKS = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.fixture(autouse=True)
def strict_jax() -> None:
    """Users have JAX's own settings."""


def test_code_of_the_page() -> None:
    blocks = BLOCKS.findall((ROOT / "docs" / "jax.md").read_text())
    assert len(blocks) == 6
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert names["grads"].layers[0].weight.shape == (8, 4)
    assert names["tokens"].shape == (8, 16, 16)
    assert names["z"].shape == (8, 32, 32, 16)


def test_digits_and_their_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = str(ROOT / "examples" / "jax_digits.py")
    out = ("--out", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [script, "--epochs", "2", "--seeds", "1", *out])
    for _ in range(2):  # the second time everything is recorded
        runpy.run_path(script, run_name="__main__")
    said = capsys.readouterr().out
    assert said.count("accuracy") == 2
    records, warnings = RecordFile(tmp_path / "records.jsonl").read()
    assert warnings == []
    assert [record.config.method for record in records] == ["vanilla", "tract"]
    assert [record.layers for record in records] == [(), ("first",)]
    assert all(record.accuracy[-1] > 0.3 for record in records), "chance is 0.1"
    assert cli.main(["report", str(tmp_path)]) == 0
    (page,) = tmp_path.rglob("report.html")
    assert "flax:two-convolutions" in page.read_text()


def test_the_same_vit_takes_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    import jax_vit

    found = jax_vit.differences(0.1)
    assert len(found) == 32
    assert max(found.values()) < 1e-4
    assert found[f"{jax_vit.FIRST}.weight"] < 1e-5
