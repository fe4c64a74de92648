"""Standard output and standard error where they are closed, broken, full or narrow."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from collections.abc import Callable
from typing import TextIO


def prepare_streams() -> None:
    """Make both streams take any text.

    What the shell has no stream for, as after ``>&-``, goes nowhere. λ and ± are shown
    where the output's encoding has them, a ``?`` where it has not.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(_nowhere(), "w", encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def flushed(act: Callable[[], int]) -> int:
    """Learn now, and not at the interpreter's end, that output cannot be written.

    Args:
        act: writes output and returns an exit code.

    Returns:
        The code.

    Raises:
        SystemExit: if `act` ends so.
    """
    try:
        code = act()
    except SystemExit:
        sys.stdout.flush()
        raise
    sys.stdout.flush()
    return code


def is_unread() -> bool:
    """Whether a stream is a pipe whose other end is closed.

    Returns:
        False too where the system cannot tell.
    """
    return any(map(_is_broken, (sys.stdout, sys.stderr)))


def _is_broken(stream: TextIO) -> bool:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        poll = select.poll()
        poll.register(stream.fileno(), 0)  # errors are reported unasked
        return bool(poll.poll(0))
    return False


def give_up_output() -> None:
    """Drop what is still to be written, which the interpreter would try at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(_nowhere(), sys.stdout.fileno())


def _nowhere() -> int:
    return os.open(os.devnull, os.O_WRONLY)
