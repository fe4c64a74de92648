"""What is in the wheel and the sdist, and what their metadata says."""

from __future__ import annotations

import subprocess
import tarfile
import tomllib
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import pytest

import trainact
from release.environments import metadata
from tests.wheel.conftest import ROOT, build

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SUFFIXES = {".bash", ".css", ".fish", ".html", ".py", ".typed", ".zsh"}
# Source text, half a megabyte of it today. A data set, weights or pictures are more.
MOST_BYTES = 1 << 20


def committed(folder: str) -> set[str]:
    """Files that git has or would add: a new one is a part of the next commit."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", folder]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip("not a git checkout: there is no list of files to compare with")
    return {name for name in done.stdout.splitlines() if (ROOT / name).is_file()}


def test_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    wanted = {name.removeprefix("src/") for name in committed("src/trainact")}
    info = f"trainact-{trainact.__version__}.dist-info"
    wanted |= {f"{info}/{name}" for name in ("METADATA", "RECORD", "WHEEL")}
    wanted |= {f"{info}/entry_points.txt", f"{info}/licenses/LICENSE"}
    with ZipFile(wheel) as files:
        assert set(files.namelist()) == wanted
    assert "trainact/py.typed" in wanted


def test_wheel_is_source_only_and_small(wheel: Path) -> None:
    with ZipFile(wheel) as files:
        names = [name for name in files.namelist() if name.startswith("trainact/")]
    assert {PurePosixPath(name).suffix or name for name in names} <= SUFFIXES
    assert not [name for name in names if {"tests", "records"} & set(name.split("/"))]
    assert wheel.stat().st_size < MOST_BYTES


def test_metadata_is_complete(wheel: Path) -> None:
    found = metadata(wheel)
    assert found["Name"] == ["trainact"]
    assert found["Version"] == [trainact.__version__]
    assert found["Requires-Python"] == [PROJECT["requires-python"]]
    assert found["License-Expression"] == ["MIT"]
    assert found["License-File"] == ["LICENSE"]
    assert found["Summary"] == [PROJECT["description"]]
    assert set(found["Provides-Extra"]) == set(PROJECT["optional-dependencies"])
    assert set(found["Classifier"]) == set(PROJECT["classifiers"])


def test_classifiers_repeat_neither_license_nor_a_python_too_old(wheel: Path) -> None:
    classifiers = metadata(wheel)["Classifier"]
    # Beside a license expression, a registry refuses them.
    assert not [name for name in classifiers if name.startswith("License ::")]
    lowest = PROJECT["requires-python"].removeprefix(">=")
    assert f"Programming Language :: Python :: {lowest}" in classifiers


def test_core_requires_torch_and_numpy_alone(wheel: Path) -> None:
    unconditional = [r for r in metadata(wheel)["Requires-Dist"] if ";" not in r]
    assert {r.partition(">")[0] for r in unconditional} == {"torch", "numpy"}


def test_description_is_the_readme(wheel: Path) -> None:
    assert metadata(wheel)["Description-Content-Type"] == ["text/markdown"]
    info = f"trainact-{trainact.__version__}.dist-info"
    with ZipFile(wheel) as files:
        text = files.read(f"{info}/METADATA").decode()
    assert text.split("\n\n", 1)[1] == (ROOT / "README.md").read_text()


def test_sdist_has_what_builds_the_wheel(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    beside = {name for name in names if not name.startswith("src/trainact/")}
    documents = {"CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md"}
    assert beside == documents | {".gitignore", "PKG-INFO", "pyproject.toml"}


def test_sdist_builds_the_same_wheel(built: Path, wheel: Path, tmp_path: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as files:
        files.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    build(source, tmp_path / "dist", "wheel")
    (again,) = (tmp_path / "dist").glob("*.whl")
    assert again.name == wheel.name
    assert again.read_bytes() == wheel.read_bytes()
