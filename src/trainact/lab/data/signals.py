"""Signals that reach whole groups of processes, of which one is to answer."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterable
from types import TracebackType

_OF_CLUSTERS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def leave_to_parent(worker: int) -> None:
    """Ignore what a cluster sends to every process of a job; for `DataLoader`.

    The process that trains decides what a signal means. A data worker that ended would
    make it fail, and one that is forked from a process with submitit's handlers would
    queue the job again by itself. Ended by its parent it ends, and without it, too;
    that a batch then finds no taker it keeps to itself.

    Args:
        worker: not used.
    """
    del worker
    sys.excepthook = _report
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, _OF_CLUSTERS)
        arguments = (_OF_CLUSTERS, os.getppid())
        threading.Thread(target=_heed, args=arguments, daemon=True).start()


def _report(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print what a thread leaves uncaught, but for the end of the one at the pipe."""
    if not issubclass(kind, ConnectionError):
        sys.__excepthook__(kind, error, trace)


def _heed(signals: Iterable[signal.Signals], sender: int) -> None:
    """End this process when a certain one tells it to."""
    while signal.sigwaitinfo(signals).si_pid != sender:
        pass
    os._exit(128 + signal.SIGTERM)
