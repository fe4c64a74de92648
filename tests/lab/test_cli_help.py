"""The help of every command, as a new user reads it at 80 columns."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from tyro.conf import Positional

from tests.lab.commands import read_terminal
from trainact import cli
from trainact.cli.command import COMMANDS, load
from trainact.lab.command_line import parse
from trainact.lab.errors import LabError
from trainact.lab.option_fields import option_fields

WIDTH = 80


def all_commands() -> dict[str, type]:
    """Options by what is typed; a command with others below it, and those."""
    found: dict[str, type] = {}
    for name, command in COMMANDS.items():
        found[name] = options = load(command.options)
        below = getattr(options, "subcommands", {})
        found.update({f"{name} {own}": kind for own, kind in below.items()})
    return found


OPTIONS = all_commands()


@pytest.fixture(autouse=True)
def width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))


def help_of(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main([*name.split(), "--help"])
    assert stop.value.code == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def words(text: str) -> str:
    """Without lines and boxes, so that folding makes no difference."""
    return " ".join(re.sub(r"^[│|]|[│|]$|^[╭╰+].*$", "", text, flags=re.M).split())


@pytest.mark.parametrize("name", OPTIONS)
def test_help_fits_and_says_everything(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_of(name, capsys)
    lines = text.splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert not any(set(line) <= set("│| ") for line in lines if line)
    assert "\n\n\n" not in text
    assert "\033" not in text
    assert "None" not in text
    assert "(default: )" not in text
    said = words(text)
    assert words((OPTIONS[name].__doc__ or "").partition("\n\n")[0]) in said
    if not hasattr(OPTIONS[name], "subcommands"):
        for field in option_fields(OPTIONS[name]):
            assert words(field.text) in said
            title = field.metavar if field.is_positional else field.flag
            assert len(re.findall(rf"^[│|] {re.escape(title)} ", text, re.M)) == 1


def test_a_command_with_others_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of("shards", capsys)
    assert "  make   write a folder of images as WebDataset shards" in text
    assert "  index  write the index of WebDataset shards" in text


def test_every_option_stands_in_one_group_at_most() -> None:
    for options in OPTIONS.values():
        groups: dict[str, tuple[str, ...]] = getattr(options, "groups", {})
        listed = [name for names in groups.values() for name in names]
        assert len(listed) == len(set(listed))
        fields = option_fields(options) if listed else []
        assert {field.name for field in fields} >= set(listed)


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_on_a_terminal_it_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    import fcntl
    import struct
    import termios

    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, WIDTH, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "PYTHONIOENCODING": "utf-8"}
    del environment["COLUMNS"]
    with subprocess.Popen(
        [sys.executable, "-m", "trainact", "run", "--help"],
        stdin=theirs,
        stdout=theirs,
        env=environment,
    ):
        os.close(theirs)
        text = read_terminal(ours).replace("\r\n", "\n")
    assert "\033[1m" in text
    plain = re.sub(r"\033\[[0-9;]*m", "", text)
    assert max(map(len, plain.splitlines())) <= WIDTH
    assert words(plain) == words(help_of("run", capsys))


@dataclass(frozen=True)
class SomeOptions:
    """Options of every kind."""

    groups: ClassVar[dict[str, tuple[str, ...]]] = {"apart": ("count", "flag")}

    thing: Positional[str]
    """What it is
    about."""

    rest: Positional[tuple[Path, ...]] = ()
    """Paths."""

    count: int | None = None
    """How many."""

    rates: tuple[float, ...] = (0.1, 1.0)
    """Rates."""

    kind: Literal["a", "b"] | None = None
    """Which."""

    flag: bool = False
    """Whether."""


@dataclass(frozen=True)
class MoreOptions(SomeOptions):
    """Those and another."""

    last: int = 0
    """The last."""


def test_options_are_described_once_for_all() -> None:
    thing, rest, count, rates, kind, flag, last = option_fields(MoreOptions)
    assert (thing.text, thing.metavar, thing.default) == (
        "What it is about.",
        "THING",
        MISSING,
    )
    assert (rest.kind, rest.is_many, rest.is_positional) == (Path, True, True)
    assert (count.kind, count.group, count.hint) == (int, "apart", "")
    assert (rates.flag, rates.metavar) == ("--rates", "FLOAT ...")
    assert rates.hint == "(default: 0.1 1)"
    assert (kind.choices, kind.metavar, kind.hint) == (("a", "b"), "{a,b}", "")
    assert (flag.kind, flag.hint) == (bool, "")
    assert (last.text, last.hint) == ("The last.", "(default: 0)")


def test_options_are_read_as_they_are_typed() -> None:
    typed = ["x", "y", "z", "--count", "3", "--rates", "1", "2", "--kind=b"]
    assert parse(
        "some", MoreOptions, [*typed, "--flag", "--last", "-4"]
    ) == MoreOptions(
        thing="x",
        rest=(Path("y"), Path("z")),
        count=3,
        rates=(1.0, 2.0),
        kind="b",
        flag=True,
        last=-4,
    )
    assert parse("some", MoreOptions, ["x"]) == MoreOptions(thing="x")
    assert parse("some", MoreOptions, ["x", "--rates=5"]).rates == (5.0,)


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (
            "--cuont 3 x",
            "`trainact some` has no option --cuont (did you mean '--count'",
        ),
        ("x --no-flag", "has no option --no-flag"),
        ("x --rates --flag", "--rates was given without a value: give at least one"),
        ("x --rates", "--rates was given without a value"),
    ],
)
def test_what_means_nothing_is_refused(typed: str, says: str) -> None:
    with pytest.raises(LabError, match=re.escape(says)):
        parse("some", MoreOptions, typed.split())


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("x --kind c", "Expected one of ('a', 'b')"),
        ("x --count many", "Error parsing --count: invalid literal for int()"),
        ("x --rates 1 fast", "Error parsing --rates"),
        ("--count 3", "THING"),
    ],
)
def test_what_cannot_be_read_is_refused(
    typed: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse("some", MoreOptions, typed.split())
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert says in words(captured.err)
    assert "None" not in captured.err
    assert captured.out == ""
