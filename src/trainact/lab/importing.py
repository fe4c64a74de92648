"""Objects of the user's own, named as PACKAGE.MODULE:NAME, and errors in them."""

from __future__ import annotations

import hashlib
import importlib
import sys
import sysconfig
import traceback
from inspect import ismodule
from pathlib import Path
from typing import Any

from trainact.lab.environment import hide_home
from trainact.lab.errors import LabError, first_line

_OURS = Path(__file__).parents[1]
_PYTHONS = Path(sysconfig.get_path("stdlib")).resolve()
_INSTALLED = {"site-packages", "dist-packages"}


def import_object(kind: str, reference: str, hint: str = "") -> Any:
    """Import what a user names, also from the working directory.

    Args:
        kind: of the object, for messages.
        reference: ``PACKAGE.MODULE:NAME``.
        hint: follows the message where there is no such module.

    Returns:
        The object.

    Raises:
        LabError: if there is no such module, an error in it, or nothing of that name.
    """
    module, _, name = reference.partition(":")
    if not all(map(str.isidentifier, [*module.split("."), name])):
        raise LabError(f"{kind} {reference!r}: write PACKAGE.MODULE:NAME")
    # As `python -m` does; it stays, for what the object imports when it is used.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:
        raise LabError(
            f"{kind} {reference}: {_explain(error, module, hint)}"
        ) from error


def _explain(error: BaseException, module: str, hint: str) -> str:
    if isinstance(error, ModuleNotFoundError):
        if module.endswith(".py"):
            return f"write it without .py, as {module.removesuffix('.py')}:NAME"
        is_itself = f"{module}.".startswith(f"{error.name}.")
        place = hint if is_itself else f" (in {own_place(error)})"
        return f"there is no module {error.name!r}{place}"
    if isinstance(error, AttributeError) and own_place(error) is None:
        return first_line(error)
    return f"its module cannot be imported ({what_happened(error)})"


def call_own(what: str, function: Any, *arguments: Any, kind: type) -> Any:
    """Call a function of the user's own, whose failure is one line.

    Args:
        what: it is, for messages.
        function: to be called.
        *arguments: of it.
        kind: of which the result must be.

    Returns:
        The result.

    Raises:
        LabError: if it raises anything or returns something else.
    """
    try:
        result = function(*arguments)
    except LabError:
        raise
    except (Exception, SystemExit) as error:
        raise LabError(f"{what}: {what_happened(error)}") from error
    if not isinstance(result, kind):
        found = type(result).__name__
        raise LabError(f"{what} returned {found} where {kind.__name__} is needed")
    return result


def hash_own(reference: str) -> str | None:
    """Hash the files of the user's own that an imported object is made of.

    Args:
        reference: ``PACKAGE.MODULE:NAME``.

    Returns:
        16 hexadecimal digits, for its module and for those whose objects it uses; None
        where all of them are libraries.
    """
    queue = [sys.modules[reference.partition(":")[0]]]
    files: dict[Path, None] = {}
    for module in queue:
        file = Path(getattr(module, "__file__", None) or "<none>")
        if file in files or _is_library(file):
            continue
        files[file] = None
        for value in vars(module).values():
            name = getattr(value, "__name__" if ismodule(value) else "__module__", None)
            queue += [sys.modules[name]] if name in sys.modules else []
    if not files:
        return None
    content = b"".join(file.read_bytes() for file in files)
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def what_happened(error: BaseException) -> str:
    """Say what an exception in the user's own code was, and where.

    Args:
        error: any exception.

    Returns:
        For example ``KeyError: 'depth' (in models.py, line 12)``.
    """
    text = f"{type(error).__name__}: {first_line(error)}"
    # A SyntaxError says itself where it is.
    place = None if isinstance(error, SyntaxError) else own_place(error)
    return text if place is None else f"{text} (in {place})"


def own_place(error: BaseException) -> str | None:
    """Find the innermost line of the user's own code that an exception came through.

    Args:
        error: any exception.

    Returns:
        File and line; None where it came through Python's, installed packages' and this
        package's code alone.
    """
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if not _is_library(path):
            return _place(path, frame.lineno)
    return None


def is_the_users(error: BaseException) -> bool:
    """Whether an exception arose in the user's own code, or in what that called.

    Args:
        error: any exception.

    Returns:
        False where this package's code was at work last, but for libraries.
    """
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(_OURS):
            return False
        if not _is_library(path):
            return True
    return False


def _is_library(path: Path) -> bool:
    if path.name.startswith("<"):  # frozen modules of Python, and made-up code
        return True
    return (
        path.is_relative_to(_OURS)
        or path.resolve().is_relative_to(_PYTHONS)
        or not _INSTALLED.isdisjoint(path.parts)
    )


def _place(path: Path, line: int | None) -> str:
    here = Path.cwd()
    shown = path.resolve()
    name = shown.relative_to(here) if shown.is_relative_to(here) else shown
    return f"{hide_home(str(name))}, line {line}"
