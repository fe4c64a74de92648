"""What the installed wheel imports: nothing that its metadata does not ask for.

The trials are those of the release, which runs them in fresh environments. Here they
run in this one, with everything hidden that neither the core nor the extra asks for,
directly or through what it asks for.
"""

from __future__ import annotations

import ast
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import (
    PackageNotFoundError,
    distribution,
    packages_distributions,
)
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from release.environments import PROGRAMS, TRIALS, metadata, requirements
from tests.tolerances import ORACLE_RTOL
from tests.wheel.conftest import ROOT

ONLY = Path(__file__).with_name("only.py")
# Names that differ from those of the distributions that have them.
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn"}
# Comes with torch, where there is one.
TRITON = "triton"


def closure(wanted: list[str]) -> set[str]:
    """Distributions that are asked for, directly or not, as far as they are here."""
    found: set[str] = set()
    waiting = [(requirement, "") for requirement in map(Requirement, wanted)]
    while waiting:
        requirement, extra = waiting.pop()
        marker, name = requirement.marker, canonicalize_name(requirement.name)
        if marker and not marker.evaluate({"extra": extra}):
            continue
        try:
            asked = list(map(Requirement, distribution(name).requires or []))
        except PackageNotFoundError:
            continue
        extras = requirement.extras if name in found else {"", *requirement.extras}
        found.add(name)
        waiting += [(more, extra) for extra in extras for more in asked]
    return found


def run_trial(extra: str, parts: list[str], wheel: Path, installed: Path) -> str:
    distributions = closure(requirements(wheel, extra))
    modules = [
        module
        for module, names in packages_distributions().items()
        if distributions & set(map(canonicalize_name, names))
    ]
    program = [sys.executable, "-P", ONLY, installed, TRIALS / PROGRAMS[extra]]
    done = subprocess.run(
        [*map(str, program), *parts],
        input=json.dumps({"modules": modules, "distributions": [*distributions]}),
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        cwd=installed.parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_core_works_with_torch_and_numpy_alone(wheel: Path, installed: Path) -> None:
    out = run_trial("", ["imports", "smoke"], wheel, installed)
    assert "modules of the core imported" in out
    assert "modules imported by using trainact, all its own" in out
    assert "compare without the lab" in out


# What they do is tested elsewhere, and in the release's environments.
@pytest.mark.parametrize("extra", ["jax", "lab"])
def test_extra_needs_what_it_asks_for_alone(
    extra: str, wheel: Path, installed: Path
) -> None:
    out = run_trial(extra, ["imports"], wheel, installed)
    assert f"modules of {extra} imported" in out


def test_every_extra_has_a_trial(wheel: Path) -> None:
    assert set(PROGRAMS) == {"", *metadata(wheel)["Provides-Extra"]} - {"dev"}
    assert {(TRIALS / program).is_file() for program in PROGRAMS.values()} == {True}


def test_trials_are_as_strict_as_the_tests() -> None:
    shared = runpy.run_path(str(TRIALS / "shared.py"))
    assert shared["BOUND"] == ORACLE_RTOL


def imported(source: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("extra", ["", "jax", "lab"], ids=["core", "jax", "lab"])
def test_what_is_imported_is_asked_for_directly(extra: str, wheel: Path) -> None:
    asked = {canonicalize_name(Requirement(r).name) for r in requirements(wheel, extra)}
    package = ROOT / "src" / "trainact"
    # The command is a door to the lab: it says what is not installed.
    apart = [package / name for name in ("cli", "jax", "lab", "integrations")]
    sources = [
        source
        for source in (package / extra).rglob("*.py")
        if extra or not any(source.is_relative_to(folder) for folder in apart)
    ]
    assert len(sources) > 10
    names = {name for source in sources for name in imported(source)}
    names -= sys.stdlib_module_names | {"trainact", TRITON}
    needs = {canonicalize_name(DISTRIBUTIONS.get(name, name)) for name in names}
    assert needs <= asked
