"""The places that state the version agree, and the changelog is ready."""

from __future__ import annotations

import re
from pathlib import Path

PAGES = ("README.md", "CONTRIBUTING.md", "docs/*.md", "examples/*.md")
HEADING = re.compile(r"^## +(.+?) *$", re.MULTILINE)
RELEASED = re.compile(r"(\d+\.\d+\.\d+) - (\d{4}-\d{2}-\d{2})")


def version_problems(root: Path) -> list[str]:
    """Whether the version is one that can be released.

    Args:
        root: of the checkout.

    Returns:
        What to do; nothing if all is well.
    """
    version = version_of(root)
    if re.fullmatch(r"\d+\.\d+\.\d+", version):
        return []
    return [
        f"src/trainact/_version.py says {version!r}: give a version such as 0.1.0, "
        "without a suffix"
    ]


def changelog_problems(root: Path) -> list[str]:
    """Whether the newest section of the changelog is this version's, with a date.

    Args:
        root: of the checkout.

    Returns:
        What to do; nothing if all is well.
    """
    version = version_of(root)
    sections = _sections(root)
    newest = next(iter(sections), "none")
    problems: list[str] = []
    if sections.pop("Unreleased", "").strip():
        problems.append(f"CHANGELOG.md: move what is under Unreleased to {version}")
    released = RELEASED.fullmatch(next(iter(sections), ""))
    if released is None or released[1] != version:
        problems.append(
            f"CHANGELOG.md: the newest section is {newest!r}; "
            f"it should be '{version} - YYYY-MM-DD', with the day of the release"
        )
    return problems


def citation_problems(root: Path) -> list[str]:
    """Whether CITATION.cff has the version, and the changelog's date.

    Args:
        root: of the checkout.

    Returns:
        What to do; nothing if all is well.
    """
    text = (root / "CITATION.cff").read_text(encoding="utf-8")
    wanted = {"version": version_of(root), "date-released": _date(root)}
    problems: list[str] = []
    for key, value in wanted.items():
        found = re.search(rf"^{key}: *['\"]?([^'\"\n]*)", text, re.MULTILINE)
        if found is None or found[1].strip() != value:
            problems.append(f"CITATION.cff: '{key}: {value}' is wanted")
    return problems


def page_problems(root: Path) -> list[str]:
    """Whether no page names another version of trainact, to install or as its output.

    Args:
        root: of the checkout.

    Returns:
        What to do; nothing if all is well.
    """
    version = version_of(root)
    named = re.compile(r"\btrainact(?:\[\w+\])? ?(?:[=~>]= ?)?(\d+\.\d+[\w.]*\w)")
    return [
        f"{path.relative_to(root)} names trainact {found}, but this is {version}"
        for pattern in PAGES
        for path in sorted(root.glob(pattern))
        for found in named.findall(path.read_text(encoding="utf-8"))
        if found != version
    ]


def version_of(root: Path) -> str:
    """Read the version without importing the package.

    Args:
        root: of the checkout.

    Returns:
        The version; an empty string if there is none.
    """
    text = (root / "src" / "trainact" / "_version.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.*)"$', text, re.MULTILINE)
    return found[1] if found else ""


def _sections(root: Path) -> dict[str, str]:
    """Second-level headings of the changelog, in their order, with what is below."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    _, *parts = HEADING.split(text)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _date(root: Path) -> str:
    for heading in _sections(root):
        released = RELEASED.fullmatch(heading)
        if released:
            return released[2]
    return "YYYY-MM-DD"
