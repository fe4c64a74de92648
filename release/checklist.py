"""The points of the release checklist, in their order."""

from __future__ import annotations

import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from release import agreement
from release.environments import UV, Place, places, try_out
from release.figures import figure_problems
from release.programs import git, run
from release.reporting import Point

TOOL = (*UV, "tool", "run")
CHECKS = ("make", "format", "lint", "types", "test")
ADDRESS = (
    "give pyproject.toml the repository's public address (project.urls), and the "
    "README's links and pictures too: relative ones lead nowhere on a registry's page"
)


def points(root: Path, pythons: Sequence[str] | None) -> list[Point]:
    """All points; those that take long come last.

    Args:
        root: of the checkout.
        pythons: versions to try the wheel on, or None for those of the metadata.

    Returns:
        The points.
    """
    figures = [sys.executable, "-m", "benchmarks.readme", "--check"]
    citation = [*TOOL, "cffconvert", "--validate", "-i", "CITATION.cff"]

    def on_root(problems: Callable[[Path], list[str]]) -> Callable[[], list[str]]:
        return partial(problems, root)

    return [
        Point("nothing is uncommitted", on_root(clean_problems)),
        Point("the tag is free", on_root(tag_problems)),
        Point("the version can be released", on_root(agreement.version_problems)),
        Point("the changelog's is this version", on_root(agreement.changelog_problems)),
        Point("so is the citation's", on_root(agreement.citation_problems)),
        Point("no page names another version", on_root(agreement.page_problems)),
        Point("CITATION.cff keeps to its schema", partial(run, citation, root)),
        Point("every figure's record is committed", on_root(figure_problems)),
        Point("every figure is that of its record", partial(run, figures, root)),
        Point("checks and tests", partial(run, CHECKS, root), kind="check"),
        Point("wheel and sdist are built", on_root(build_problems)),
        Point("their metadata can be published", on_root(publishing_problems)),
        *(
            Point(str(place), partial(_tried, root, place), kind="environments")
            for place in places(pythons or supported_pythons(root))
        ),
    ]


def supported_pythons(root: Path) -> list[str]:
    """Read which versions of Python the metadata names.

    Args:
        root: of the checkout.

    Returns:
        The versions, the oldest first.
    """
    named = re.compile(r"Programming Language :: Python :: (3\.\d+)")
    found = filter(None, map(named.fullmatch, _project(root)["classifiers"]))
    return sorted((match[1] for match in found), key=lambda v: int(v.split(".")[1]))


def clean_problems(root: Path) -> list[str]:
    """Whether what is released is what is committed.

    Args:
        root: of the checkout.

    Returns:
        What to do; nothing if all is well.
    """
    changed = git(root, "status", "--porcelain").splitlines()
    if not changed:
        return []
    return [f"commit or put away {len(changed)} files, {changed[0][3:]} among them"]


def tag_problems(root: Path) -> list[str]:
    """Whether this version has not been tagged on another commit.

    Args:
        root: of the checkout.

    Returns:
        What to do; nothing if all is well.
    """
    tag = f"v{agreement.version_of(root)}"
    if not git(root, "tag", "--list", tag).strip():
        return []
    if tag in git(root, "tag", "--points-at", "HEAD").split():
        return []
    return [f"{tag} is another commit's: raise the version"]


def build_problems(root: Path) -> list[str]:
    """Build both from an empty ``dist``, the wheel from the sdist.

    Args:
        root: of the checkout.

    Returns:
        What went wrong; nothing if all is well.
    """
    shutil.rmtree(root / "dist", ignore_errors=True)
    problems = run([sys.executable, "-m", "build"], root)
    if problems:
        return problems
    version = agreement.version_of(root)
    wanted = {f"trainact-{version}-py3-none-any.whl", f"trainact-{version}.tar.gz"}
    built = {path.name for path in (root / "dist").iterdir()}
    return [] if built == wanted else [f"dist/ has {sorted(built)}"]


def publishing_problems(root: Path) -> list[str]:
    """Whether a registry would take the files and show the README.

    Args:
        root: of the checkout.

    Returns:
        What went wrong; nothing if all is well.
    """
    files = sorted(str(path) for path in (root / "dist").glob("*"))
    return run([*TOOL, "twine", "check", "--strict", *files], root)


def remaining_steps(root: Path, complete: bool) -> str:
    """Say what is left to do by hand.

    Args:
        root: of the checkout.
        complete: whether nothing of the checklist was skipped.

    Returns:
        The text.
    """
    tag = f"v{agreement.version_of(root)}"
    again = [] if complete else ["go through the checklist without skipping anything"]
    address = [] if "urls" in _project(root) else [ADDRESS]
    steps = [
        *again,
        *address,
        "see that the day in CHANGELOG.md and CITATION.cff is today",
        "see that CI is green on this commit, and the GPU tests: make gpu",
        f"git tag --annotate {tag} --message 'trainact {tag[1:]}' && git push "
        f"origin {tag}",
        "uv publish dist/*, with a token of the registry",
        "install it from there into a new environment, and run the README's example",
        f"publish {tag}'s section of CHANGELOG.md with the tag",
    ]
    lines = [f"  {number}. {step}" for number, step in enumerate(steps, start=1)]
    return "\n".join(["", "Ready. By hand, in this order:", *lines])


def _project(root: Path) -> dict[str, Any]:
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["project"]


def _tried(root: Path, place: Place) -> list[str]:
    wheels = list((root / "dist").glob("*.whl"))
    if len(wheels) != 1:
        return ["no wheel was built"]
    return try_out(wheels[0], place)
