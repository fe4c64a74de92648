"""The additions that CONTRIBUTING.md works out apply to this tree, and work."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PART = re.compile(r"^### (.+?)\n.*?```diff\n(.*?)```\n\n```sh\n(.*?)```", re.M | re.S)
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
ADDITIONS = PART.findall(GUIDE)


def test_every_diff_is_tried() -> None:
    assert len(ADDITIONS) == GUIDE.count("```diff")


@pytest.mark.parametrize(
    ("diff", "commands"),
    [pytest.param(*parts, id=title) for title, *parts in ADDITIONS],
)
def test_addition(diff: str, commands: str, tmp_path: Path) -> None:
    for name in ("src", "tests", "docs"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, tmp_path)
    apply = ["git", "apply", "-p0", "--whitespace=error", "-"]
    subprocess.run(apply, cwd=tmp_path, input=diff, text=True, check=True)
    changed = re.findall(r"^\+\+\+ (.+\.py)$", diff, re.M)
    for check in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *check, *changed]
        subprocess.run(ruff, cwd=tmp_path, check=True)
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "src")}
    for line in commands.splitlines():
        program, *arguments = line.removeprefix(".venv/bin/").split()
        result = subprocess.run(
            [sys.executable, "-m", program, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr
