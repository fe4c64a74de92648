"""From what was typed to a command's options: tyro's parser, with help that reads well.

tyro is shown a class made of the command's own one, because of its options tyro would
keep the line breaks of the source in the texts, name ``None`` among the choices and
show all options in one box; and it does not fold the lines above the boxes.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import inspect
import io
import itertools
import re
import shutil
import sys
import textwrap
from collections.abc import Generator, Mapping, Sequence
from typing import Annotated, Any, TextIO

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes

from trainact.lab.errors import LabError, did_you_mean
from trainact.lab.option_fields import OptionField, option_fields

_HELP = ("-h", "--help")
_USAGE = "usage: "
_NO_BREAK = "\0"


def parse(name: str, options: type, arguments: Sequence[str]) -> Any:
    """Read a command's options.

    Args:
        name: of the command.
        options: a dataclass with a field for each option, or with one field ``command``
            and ``subcommands``, the classes of the commands below it.
        arguments: as typed, without the command's name.

    Returns:
        An instance of the class.

    Raises:
        LabError: for an option that there is not, or that says nothing.
        SystemExit: after help, or for what tyro cannot read.
    """
    below: dict[str, type] | None = getattr(options, "subcommands", None)
    if below is None:
        return _parse_plain(name, options, arguments)
    first = arguments[0] if arguments else ""
    if first in below:
        return options(parse(f"{name} {first}", below[first], arguments[1:]))
    if first in _HELP:
        sys.stdout.write(_overview(name, options, below))
        raise SystemExit(0)
    seen = f"{first!r} is not one of its commands" if first else "a command is missing"
    raise LabError(
        f"`trainact {name}`: {seen}{did_you_mean(first, below)}: give one of "
        f"{', '.join(below)}"
    )


def _parse_plain(name: str, options: type, arguments: Sequence[str]) -> Any:
    fields = option_fields(options)
    arguments = _renamed(arguments, getattr(options, "also", {}))
    _check_flags(name, fields, arguments)
    with _folded():
        parsed = tyro.cli(
            _form(options, fields),
            args=arguments,
            prog=f"trainact {name}",
            description=_description(options),
            config=(FlagCreatePairsOff, OmitArgPrefixes),
        )
    return options(**dict(_values(parsed)))


def _renamed(arguments: Sequence[str], also: Mapping[str, str]) -> list[str]:
    """Give options that have two names the one that their field has."""
    words = [word.partition("=") for word in arguments]
    return [also.get(word, word) + equals + value for word, equals, value in words]


def _form(options: type, fields: Sequence[OptionField]) -> type:
    """The class that tyro is shown: its fields with texts, those of groups apart."""
    grouped: dict[str, list[tuple[str, Any, Any]]] = {}
    for field in fields:
        default = dataclasses.field(default=field.default)
        shown = (field.name, _annotated(field), default)
        grouped.setdefault(field.group, []).append(shown)
    own = grouped.pop("", [])
    for group, members in grouped.items():
        part = dataclasses.make_dataclass(group, members)
        own.append((group, part, dataclasses.field(default_factory=part)))
    return dataclasses.make_dataclass(options.__name__, own, kw_only=True)


def _annotated(field: OptionField) -> Any:
    metavar = None if field.kind is bool else field.metavar
    kind = tuple[field.kind, ...] if field.is_many else field.kind
    told = tyro.conf.arg(
        metavar=metavar,
        help=field.text,
        help_behavior_hint=field.hint,
        # Not of a flag, which takes no value. Of others it leaves None out.
        constructor=None if field.kind is bool else kind,
    )
    return Annotated[field.annotation, told]


def _values(parsed: Any) -> Generator[tuple[str, Any]]:
    """The options, out of their groups."""
    for name, value in vars(parsed).items():
        if dataclasses.is_dataclass(value):
            yield from _values(value)
        else:
            yield name, value


def _check_flags(
    name: str, fields: Sequence[OptionField], arguments: Sequence[str]
) -> None:
    """Refuse what tyro would not say as plainly, or take for nothing."""
    flags = {field.flag: field for field in fields if not field.is_positional}
    for word, following in itertools.pairwise([*arguments, None]):
        if word is None or not word.startswith("--") or word in _HELP:
            continue
        flag, equals, _ = word.partition("=")
        field = flags.get(flag.replace("_", "-"))
        if field is None:
            raise LabError(
                f"`trainact {name}` has no option {flag}{did_you_mean(flag, flags)}: "
                f"`trainact {name} --help` lists them"
            )
        is_last = following is None or following.startswith("--")
        if field.is_many and is_last and not equals:
            raise LabError(f"{flag} was given without a value: give at least one")


def _overview(name: str, options: type, below: dict[str, type]) -> str:
    width = max(map(len, below))
    lines = [
        f"usage: trainact {name} [-h] COMMAND ...",
        "",
        *_fold(_description(options)),
        "",
        "commands:",
        *(f"  {own:<{width}}  {_summary(kind)}" for own, kind in below.items()),
        "",
        f"`trainact {name} COMMAND --help` lists a command's options.",
    ]
    return "".join(f"{line}\n" for line in lines)


def _description(options: type) -> str:
    """What the class says about itself, a line for each paragraph, and commands."""
    paragraphs = (inspect.getdoc(options) or "").split("\n\n")
    return "\n\n".join(
        text if text.startswith(" ") else " ".join(text.split()) for text in paragraphs
    )


def _summary(options: type) -> str:
    line = _description(options).partition("\n")[0].removesuffix(".")
    return line[:1].lower() + line[1:]


@contextlib.contextmanager
def _folded() -> Generator[None]:
    """Fold lines that are written to standard output in the block and are too wide.

    Yields:
        Nothing.
    """
    with contextlib.redirect_stdout(_Folding(sys.stdout)):
        yield


class _Folding(io.TextIOBase):
    """Folds plain lines that are too wide, and hands them on."""

    encoding = ""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        # tyro asks whether it has lines for boxes, and calls it by this name.
        self.encoding = codecs.lookup(stream.encoding or "ascii").name

    def isatty(self) -> bool:
        """Ask the stream, since tyro shows colours on a terminal."""
        return self._stream.isatty()

    def write(self, text: str, /) -> int:
        """Fold what is too wide."""
        # tyro leaves two empty lines before what is indented.
        self._stream.write("\n".join(_fold(text)).replace("\n\n\n", "\n\n"))
        return len(text)


def _fold(text: str) -> list[str]:
    """Break lines at the terminal's width, and of usage no option apart."""
    width = shutil.get_terminal_size().columns
    return [part for line in text.split("\n") for part in _fold_line(line, width)]


def _fold_line(line: str, width: int) -> list[str]:
    if len(line) <= width or "\033" in line:  # colours are in boxes, which fit
        return [line]
    indent = " " * len(_USAGE) if line.startswith(_USAGE) else ""
    whole = re.sub(r"\[.*?\]", lambda found: found[0].replace(" ", _NO_BREAK), line)
    parts = textwrap.wrap(whole, width, subsequent_indent=indent)
    return [part.replace(_NO_BREAK, " ") for part in parts]
