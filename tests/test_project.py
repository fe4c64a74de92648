"""The project's own promises: imports, names, documentation."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import trainact


def test_importing_the_core_imports_nothing_more() -> None:
    extras = {
        "accelerate",
        "lightning",
        "pytorch_lightning",
        "transformers",
        "torchvision",
        "timm",
        "sklearn",
        "matplotlib",
        "rich",
        "tyro",
    }
    code = "import sys, trainact; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(result.stdout.split())
    assert "trainact" in loaded
    assert not loaded & (extras | {"jax", "trainact.lab", "trainact.integrations"})


@pytest.mark.parametrize("name", [n for n in trainact.__all__ if n != "__version__"])
def test_public_names_are_documented(name: str) -> None:
    public = getattr(trainact, name)
    assert inspect.getdoc(public)
    if inspect.isfunction(public):
        for part in ("Args:", "Returns:", "Examples:"):
            if name != "tract_layers" or part != "Examples:":
                assert part in inspect.getdoc(public), part
