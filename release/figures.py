"""Every published figure and picture has its record, and git has both."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from release.programs import git

PAGES = ("README.md", "docs/*.md", "examples/*.md")
RECORD = re.compile(r"`(records/[\w./-]+)`")
PICTURE = re.compile(r"!\[[^\]]*\]\((?!https?:)([^)#]+)\)")


def figure_problems(root: Path) -> list[str]:
    """Whether git has the records and pictures that the pages name.

    That the figures are those of the records is `benchmarks.readme --check`'s to say.

    Args:
        root: of the checkout.

    Returns:
        What to do; nothing if all is well.
    """
    tracked = _tracked(root)
    pages = [page for pattern in PAGES for page in sorted(root.glob(pattern))]
    problems: list[str] = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        named = [PurePosixPath(name) for name in RECORD.findall(text)]
        named += [_place(root, page, name) for name in PICTURE.findall(text)]
        problems += [
            f"{page.relative_to(root)} names {name}, which git does not have: add it, "
            "or take what it shows from the page"
            for name in dict.fromkeys(named)
            if name not in tracked
        ]
    return problems


def _place(root: Path, page: Path, name: str) -> PurePosixPath:
    place = (page.parent / name).resolve().relative_to(root.resolve())
    return PurePosixPath(place.as_posix())


def _tracked(root: Path) -> set[PurePosixPath]:
    """Files that git has, and their folders."""
    files = [PurePosixPath(line) for line in git(root, "ls-files").splitlines()]
    return {*files, *(folder for file in files for folder in file.parents)}
