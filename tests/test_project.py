"""The project's own promises: imports, names, documentation."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import trainact

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
README = (ROOT / "README.md").read_text()


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_readme_has_code() -> None:
    assert len(code_blocks("python")) >= 2


@pytest.mark.parametrize("block", code_blocks("python"))
def test_readme_code_runs(block: str) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_readme_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^\s*make (\w+)", README, flags=re.MULTILINE)
    assert {"compare", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


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
        for part in ("Args:", "Returns:", "Example:"):
            if name != "tract_layers" or part != "Example:":
                assert part in inspect.getdoc(public), part


def test_type_checker_exceptions_are_few() -> None:
    text = "\n".join(source.read_text() for source in SOURCES)
    assert "type: ignore" not in text
    assert text.count("pyright: ignore") <= 15


def test_files_stay_small() -> None:
    sizes = {p.name: len(p.read_text().splitlines()) for p in SOURCES}
    assert max(sizes.values()) <= 350, max(sizes, key=sizes.__getitem__)
