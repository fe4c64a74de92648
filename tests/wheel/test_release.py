"""The release checklist says what is wrong, of a small made-up checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from release import agreement
from release.checklist import (
    clean_problems,
    points,
    remaining_steps,
    supported_pythons,
    tag_problems,
)
from release.environments import Place, places, requirements, try_out
from release.figures import figure_problems
from release.programs import run
from release.reporting import Point, go_through
from tests.wheel.conftest import ROOT

FILES = {
    "src/trainact/_version.py": '"""The version."""\n\n__version__ = "1.2.0"\n',
    "CHANGELOG.md": "# Changelog\n\n## Unreleased\n\n## 1.2.0 - 2027-01-31\n\n- It.\n",
    "CITATION.cff": "title: trainact\nversion: 1.2.0\ndate-released: 2027-01-31\n",
    "pyproject.toml": "[project]\nurls = {}\n",
    "README.md": "![curve](docs/curve.png), from `records/a/b.jsonl`.\n",
    "docs/page.md": "![curve](curve.png) and `records/a`; trainact==1.2.0\n",
    "docs/curve.png": "",
    "records/a/b.jsonl": "{}\n",
}


def git(root: Path, *arguments: str) -> None:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.com"]
    subprocess.run(["git", *who, *arguments], cwd=root, capture_output=True, check=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "All")
    return tmp_path


CHECKS = {
    "version": agreement.version_problems,
    "changelog": agreement.changelog_problems,
    "citation": agreement.citation_problems,
    "pages": agreement.page_problems,
    "figures": figure_problems,
    "clean": clean_problems,
    "tag": tag_problems,
}


@pytest.mark.parametrize("check", CHECKS)
def test_all_is_well(check: str, checkout: Path) -> None:
    assert CHECKS[check](checkout) == []


@pytest.mark.parametrize(
    ("check", "name", "old", "new", "said"),
    [
        ("version", "src/trainact/_version.py", "1.2.0", "1.2.0.dev0", "1.2.0.dev0"),
        ("version", "src/trainact/_version.py", "__version__", "v", "''"),
        ("changelog", "src/trainact/_version.py", "1.2.0", "1.3.0", "1.3.0 - YYYY"),
        ("changelog", "CHANGELOG.md", "Unreleased\n", "Unreleased\n- New.\n", "move"),
        ("changelog", "CHANGELOG.md", " - 2027-01-31", "", "1.2.0 - YYYY-MM-DD"),
        ("citation", "CITATION.cff", "version: 1.2.0", "", "version: 1.2.0"),
        ("citation", "CITATION.cff", "2027-01-31", "2027-01-30", "2027-01-31"),
        ("pages", "docs/page.md", "1.2.0", "1.1.0", "page.md names trainact 1.1.0"),
        ("pages", "README.md", "curve", "trainact[lab] == 2.0", "names trainact 2.0"),
        ("figures", "README.md", "a/b.jsonl", "a/c.jsonl", "records/a/c.jsonl"),
        ("figures", "docs/page.md", "curve.png", "none.png", "docs/none.png"),
        ("clean", "README.md", "curve", "line", "1 files, README.md among them"),
    ],
)
def test_what_is_wrong_is_named(
    check: str, name: str, old: str, new: str, said: str, checkout: Path
) -> None:
    text = (checkout / name).read_text()
    assert old in text
    (checkout / name).write_text(text.replace(old, new))
    (problem,) = CHECKS[check](checkout)
    assert said in problem


def test_a_record_that_git_does_not_have(checkout: Path) -> None:
    git(checkout, "rm", "--cached", "--quiet", "records/a/b.jsonl")
    problems = figure_problems(checkout)
    assert [problem.split(",")[0] for problem in problems] == [
        "README.md names records/a/b.jsonl",
        "docs/page.md names records/a",
    ]


def test_tag_of_another_commit(checkout: Path) -> None:
    git(checkout, "tag", "v1.2.0")
    assert tag_problems(checkout) == []
    git(checkout, "commit", "--quiet", "--allow-empty", "--message", "More")
    (problem,) = tag_problems(checkout)
    assert "raise the version" in problem


def test_all_points_are_tried(capsys: pytest.CaptureFixture[str]) -> None:
    failed = go_through(
        [
            Point("first", lambda: ["do this"]),
            Point("second", list),
            Point("third", lambda: ["never called"], kind="slow"),
        ],
        {"slow"},
    )
    assert failed == 1
    assert capsys.readouterr().out.splitlines() == [
        "FAILED   first",
        "           do this",
        "ok       second",
        "skipped  third",
    ]


def test_programs_that_fail(tmp_path: Path) -> None:
    assert run([sys.executable, "-c", "pass"], tmp_path) == []
    code = "import sys; print('hint'); sys.exit(3)"
    first, last = run([sys.executable, "-c", code], tmp_path)
    assert first.endswith("ended with 3:")
    assert last == "hint"
    assert run(["no-such-program"], tmp_path) == ["no-such-program is not installed"]


def test_environments_cover_the_metadata(wheel: Path) -> None:
    pythons = supported_pythons(ROOT)
    assert pythons[0] == "3.11"
    assert len(pythons) >= 3
    kinds = {(place.python, place.versions) for place in places(pythons)}
    assert kinds == {("3.11", "oldest"), *((python, "newest") for python in pythons)}
    assert {place.extra for place in places(pythons)} == {"", "jax", "lab", "zoo"}
    assert set(requirements(wheel, "")) < set(requirements(wheel, "jax"))
    assert not any(name.startswith("jax") for name in requirements(wheel, "lab"))


def test_environment_that_cannot_be_made(wheel: Path) -> None:
    said = "\n".join(try_out(wheel, Place("3.99", "newest", "")))
    assert "3.99" in said


def test_address_is_asked_for_where_there_is_none(checkout: Path) -> None:
    assert "public address" not in remaining_steps(checkout, complete=True)
    (checkout / "pyproject.toml").write_text("[project]\n")
    assert "public address" in remaining_steps(checkout, complete=True)


def test_checklist_is_whole(checkout: Path) -> None:
    names = [point.name for point in points(ROOT, ["3.11"])]
    assert len(set(names)) == len(names)
    assert "checks and tests" in names
    assert str(Place("3.11", "oldest", "lab")) in names
    assert "without skipping" in remaining_steps(checkout, complete=False)
    assert "without skipping" not in remaining_steps(checkout, complete=True)
    assert "git tag --annotate v1.2.0" in remaining_steps(checkout, complete=True)
