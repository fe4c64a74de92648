"""What went wrong in a worker process, as one line."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from trainact.lab.errors import LabError, first_line

_DIED = "DataLoader worker"


@contextlib.contextmanager
def one_line() -> Generator[None]:
    """Turn what `DataLoader` makes of a worker's error back into the error's own line.

    To be put around all that is done while the processes live. A `LabError` that one
    raised arrives with the whole traceback as its message. A process that the system
    ended, mostly for want of memory, arrives as a RuntimeError, wherever the process
    that trains is at that moment.

    Yields:
        Nothing.

    Raises:
        LabError: with one line.
        RuntimeError: that is of another kind, as it came.
    """
    try:
        yield
    except LabError as error:
        message = _own_message(error)
        if message == str(error):
            raise
        raise type(error)(message) from None
    except RuntimeError as error:
        if not str(error).startswith(_DIED):
            raise
        raise LabError(
            f"a process that reads images was ended ({first_line(error)}): give it "
            "more memory, also shared memory, or have fewer --workers"
        ) from error


def _own_message(error: LabError) -> str:
    """What comes after the name of the type where a traceback says it the last time."""
    text = str(error)
    if "\n" not in text:
        return text
    kind = type(error)
    _, found, message = text.rpartition(f"{kind.__module__}.{kind.__qualname__}: ")
    return " ".join(message.split("\n")).strip() if found else first_line(error)
