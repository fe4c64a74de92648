"""The command as a terminal starts it: in a process and a session of its own."""

from __future__ import annotations

import os
import subprocess
import sys

# A shell that starts tests in the background lets them ignore SIGINT: undo that.
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from trainact.cli.command import main
sys.exit(main())
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start `trainact` with these arguments; what it writes is read as UTF-8."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        start_new_session=True,
    )


def read_terminal(end: int) -> str:
    """Read what is shown on a pseudo-terminal until its other end is closed."""
    shown = b""
    try:
        while part := os.read(end, 65536):
            shown += part
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(end)
    return shown.decode()
