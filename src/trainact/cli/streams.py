"""Standard output and standard error that are closed, broken, full or not Unicode."""

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

    Text for a stream that the shell has closed (``>&-``) is dropped. λ and ± are shown
    where the output's encoding has them, else as ``?``.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(_nowhere(), "w", encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def flushed(act: Callable[[], int]) -> int:
    """Run ``act`` and flush its output, for its exit code.

    An output that cannot be written is noticed here, not at the interpreter's end.
    """
    try:
        code = act()
    except SystemExit:
        sys.stdout.flush()
        raise
    sys.stdout.flush()
    return code


def is_unread() -> bool:
    """Whether one of the streams is a pipe whose other end is known to be closed."""
    return any(map(_is_broken, (sys.stdout, sys.stderr)))


def _is_broken(stream: TextIO) -> bool:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        poll = select.poll()
        poll.register(stream.fileno(), 0)  # errors are reported unasked
        return bool(poll.poll(0))
    return False


def give_up_output() -> None:
    """Drop what is still to be written: the interpreter would try it at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(_nowhere(), sys.stdout.fileno())


def _nowhere() -> int:
    return os.open(os.devnull, os.O_WRONLY)
