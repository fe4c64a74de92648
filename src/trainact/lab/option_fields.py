"""What the options of a command are: one description for help and for completion."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from tyro.conf import Positional

_POSITIONAL = get_args(Positional[int])[-1]
_METAVARS = {int: "INT", float: "FLOAT", str: "STR", Path: "PATH"}


@dataclass(frozen=True)
class OptionField:
    """One option of a command.

    Attributes:
        name: of the field that holds it.
        annotation: the field's own, for the parser.
        kind: type of one value: int, float, str, Path, bool or a Literal.
        default: what it is if not given; `dataclasses.MISSING` where it must be given.
        text: what it is for, in one line.
        group: heading under which help shows it; '' for none.
        is_positional: whether it is given without its name.
        is_many: whether it takes several values.
    """

    name: str
    annotation: Any
    kind: Any
    default: Any
    text: str
    group: str
    is_positional: bool
    is_many: bool

    @property
    def flag(self) -> str:
        """As it is typed."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def choices(self) -> tuple[str, ...]:
        """All values that there are; none where there are no few."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    @property
    def metavar(self) -> str:
        """Stands for the value in help."""
        if self.is_positional:
            word = self.name.upper()
        elif self.choices:
            word = f"{{{','.join(self.choices)}}}"
        else:
            word = _METAVARS[self.kind]
        word += " ..." if self.is_many else ""
        return f"[{word}]" if self.is_positional and self.default is None else word

    @property
    def hint(self) -> str:
        """Says the default, where that is a value; what None means is in the text."""
        if self.default is dataclasses.MISSING:
            return "(required)"
        if self.default is None or self.default is False or self.default == ():
            return ""
        values = self.default if self.is_many else (self.default,)
        return f"(default: {' '.join(map(_plain, values))})"


def option_fields(options: type) -> list[OptionField]:
    """Describe the options of a command.

    Args:
        options: a dataclass; its ``groups``, if it has any, are headings of help with
            the names of the fields under each.

    Returns:
        The options in the order of the fields.
    """
    hints = get_type_hints(options, include_extras=True)
    texts = dict(_texts(options))
    groups: dict[str, tuple[str, ...]] = getattr(options, "groups", {})
    group_of = {name: group for group, names in groups.items() for name in names}
    return [
        OptionField(
            name=field.name,
            annotation=hints[field.name],
            kind=(kind := _kind(hints[field.name]))[0],
            default=field.default,
            text=texts[field.name],
            group=group_of.get(field.name, ""),
            is_positional=_POSITIONAL in getattr(hints[field.name], "__metadata__", ()),
            is_many=kind[1],
        )
        for field in dataclasses.fields(options)
    ]


def first_sentence(text: str) -> str:
    """Shorten a text to what a list has room for.

    Args:
        text: of an option.

    Returns:
        Its first sentence, without the full stop.
    """
    return text.partition(". ")[0].partition("; ")[0].removesuffix(".")


def _kind(hint: Any) -> tuple[Any, bool]:
    """The type of one value, and whether there may be several."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True
    return hint, False


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _texts(options: type) -> Iterator[tuple[str, str]]:
    """The text below every field, in one line; a class's own after its parents'."""
    for base in reversed(options.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        body = definition.body if isinstance(definition, ast.ClassDef) else []
        for field, below in itertools.pairwise(body):
            match field, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    yield name, " ".join(text.split())
                case _:
                    pass
