"""The README and the documentation do what they say: code runs, commands exist.

Python blocks run in the order of their page, in a process of their own. A command is
read by its own option parser and its recipes and targets are looked up; what a run of
it does is tested where the command is tested. A page whose Python is JAX's runs in
`jaxed/test_pages.py`.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from trainact.cli import command
from trainact.lab import command_line
from trainact.lab.recipes import find_recipes

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")]
)
LANGUAGES = {"diff", "math", "python", "sh", "text"}
SNIPPET = re.compile(r'--8<-- "(.+)"\n')


@dataclass(frozen=True)
class Block:
    """A fence of a page, or an indented block, which has no language."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    for token in MarkdownIt().parse(page.read_text()):
        if token.type in ("fence", "code_block"):
            assert token.map is not None
            yield Block(page, token.map[0] + 1, token.info, token.content)


BLOCKS = [block for page in PAGES for block in blocks(page)]


def code_by_page() -> dict[Path, list[str]]:
    """Python of every page, but for examples that it shows and JAX's own page."""
    found: dict[Path, list[str]] = {}
    for block in BLOCKS:
        snippet = SNIPPET.fullmatch(block.text)
        if snippet:
            assert (ROOT / snippet[1]).is_file()
        elif block.language == "python" and block.page.name != "jax.md":
            found.setdefault(block.page, []).append(block.text)
    return found


CODE = code_by_page()


def commands() -> Iterator[tuple[str, list[str]]]:
    """Where a command stands, and its words without ``.venv/bin/``."""
    for block in BLOCKS:
        # CONTRIBUTING.md's belong to its diffs: `test_contributing.py` runs them.
        if block.language == "sh" and block.page.name != "CONTRIBUTING.md":
            for line in block.text.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words:
                    yield f"{block} {line.strip()}", words


COMMANDS = dict(commands())


def test_every_block_says_its_language() -> None:
    """What has another one would not be tested."""
    assert not [str(block) for block in BLOCKS if block.language not in LANGUAGES]


@pytest.mark.parametrize("page", CODE, ids=lambda page: page.name)
def test_python_runs(page: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(CODE[page])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def parse(words: list[str]) -> None:
    """Read a command's options as it would, without doing it."""
    name, *arguments = words
    options = command.load(command.COMMANDS[name].options)
    if "--help" in arguments:
        with pytest.raises(SystemExit, match="0"):
            command_line.parse(name, options, arguments)
        return
    parsed = command_line.parse(name, options, arguments)
    for recipe in getattr(parsed, "recipes", None) or [getattr(parsed, "recipe", None)]:
        assert recipe is None or find_recipes([recipe])


def find_module(words: list[str]) -> None:
    """Look a script or a module of ``python`` up."""
    if words[:2] == ["-m", "trainact"]:
        parse(words[2:])
    elif words[0] == "-m":
        module = words[1].replace(".", "/")
        found = [ROOT / f"{module}.py", ROOT / module / "__main__.py"]
        assert any(path.is_file() for path in found)
    else:
        assert (ROOT / words[0]).is_file()


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_exist(line: str) -> None:
    program, *arguments = COMMANDS[line]
    match program.removeprefix(".venv/bin/"):
        case "make":
            subprocess.run(["make", "-n", *arguments], cwd=ROOT, check=True)
        case "trainact":
            parse(arguments)
        case "python":
            find_module(arguments)
        case "torchrun":
            find_module(arguments[arguments.index("-m") :])
        case "pip":
            assert arguments[1] in pip_targets()
        case other:
            pytest.fail(f"nothing here knows {other}")


def pip_targets() -> set[str]:
    project = (ROOT / "pyproject.toml").read_text()
    extras = re.findall(
        r"^(\w+) = \[", project.partition("optional-dependencies")[2], re.M
    )
    return {"trainact", "trainact[lab,jax]", *(f"trainact[{name}]" for name in extras)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_exist(page: Path) -> None:
    """Those to files; the site's build checks anchors, and whether it has the page."""
    for token in MarkdownIt().parse(page.read_text()):
        for child in token.children or ():
            target = str(child.attrGet("href") or child.attrGet("src") or "#")
            if not target.startswith(("#", "http")):
                assert (page.parent / target.partition("#")[0]).is_file(), target
