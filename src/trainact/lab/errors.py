"""What a user can put right: one line that says what was seen and what to do."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from pathlib import Path

INTERRUPTED = "Interrupted: the same command goes on where it stopped."
_MAX_SEED = 2**32 - 1


class LabError(Exception):
    """A problem whose message is one line for the user; the command exits with 2."""


def first_line(error: BaseException) -> str:
    """Shorten an exception to one line.

    Args:
        error: any exception.

    Returns:
        The first non-empty line of its message, or the name of its type.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def how_many(count: int, noun: str) -> str:
    """Say how many of something there are.

    Args:
        count: how many.
        noun: of one.

    Returns:
        Such as ``1 run`` or ``2 runs``.
    """
    return f"{count} {noun}" + ("" if count == 1 else "s")


def describe_os_error(error: OSError) -> str:
    """Say what the operating system reported, without the path.

    Args:
        error: the error.

    Returns:
        For example ``No space left on device``.
    """
    return error.strerror or first_line(error)


def check_regular(path: Path) -> None:
    """Refuse a pipe, a socket or a device, for which reading might wait forever.

    Args:
        path: to be read; what is not there is left to the reader.

    Raises:
        LabError: if it is neither a file nor a folder.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise LabError(f"{path} is a pipe or a device: give a regular file")


def is_utf8(text: str) -> bool:
    """Whether a name can be written into a record.

    Args:
        text: from the file system or the command line.

    Returns:
        False where Python has put surrogates for bytes that are not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest close matches for a name that is not known.

    Args:
        name: what was typed.
        known: the names that exist.

    Returns:
        `` (did you mean 'a' or 'b'?)``, or an empty string when nothing is close.
    """
    by_lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)
    names = " or ".join(repr(by_lower[each]) for each in close)
    return f" (did you mean {names}?)" if close else ""


def check_positive(option: str, value: float | None) -> None:
    """Refuse a number that makes no sense.

    Args:
        option: as typed, such as ``--epochs``.
        value: what was given; None where nothing was.

    Raises:
        LabError: if it is not a finite number above 0.
    """
    if value is not None and not (math.isfinite(value) and value > 0):
        raise LabError(f"{option} {value}: give a finite number above 0")


def check_seed(option: str, seed: int) -> None:
    """Refuse what is no seed.

    Args:
        option: as typed, such as ``--seed``.
        seed: what was given.

    Raises:
        LabError: if it is out of range.
    """
    if not 0 <= seed <= _MAX_SEED:
        raise LabError(f"{option} {seed}: a seed lies between 0 and {_MAX_SEED}")
