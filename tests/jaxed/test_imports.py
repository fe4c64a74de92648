"""What imports what."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import trainact.jax

SOURCES = sorted(Path(trainact.jax.__file__).parent.glob("*.py"))


def test_jax_is_imported_only_when_asked_for() -> None:
    code = (
        "import sys, trainact\n"
        "assert 'jax' not in sys.modules\n"
        "sys.modules['jax'] = None  # as if it were not installed\n"
        "import trainact.jax"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: trainact.jax needs jax"), result.stderr
    assert "pip install 'trainact[jax]'" in last


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_nothing_here_needs_torch(source: Path) -> None:
    imported = []
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported.append(node.module)
    ours = [name for name in imported if name.startswith("trainact")]
    assert not any(name.split(".")[0] == "torch" for name in imported)
    assert all(name.startswith("trainact.jax.") for name in ours), ours


@pytest.mark.parametrize("name", trainact.jax.__all__)
def test_public_names_are_documented(name: str) -> None:
    public = getattr(trainact.jax, name)
    text = inspect.getdoc(public)
    assert text
    if inspect.isfunction(public):
        assert "Args:" in text
        assert "Returns:" in text
