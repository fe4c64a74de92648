"""One command on several devices of this machine: torchrun's own launcher."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from trainact.cli.exit_codes import EXIT_BAD_INPUT, EXIT_OK
from trainact.lab.errors import INTERRUPTED, LabError, check_positive
from trainact.lab.ranks import this_process

_KINDS = ("auto", "cpu", "cuda")
_SECONDS_BETWEEN_LOOKS = 0.2
# What the user can put right begins with this.
_WHAT = "trainact: "
_LAST_WORDS = re.compile(rf"^({_WHAT}|(\[rank\d+\]: )?Traceback )", re.MULTILINE)


def must_launch(devices: int, device: str) -> bool:
    """Whether this process is to start others that do the work.

    Args:
        devices: how many the user wants on this machine.
        device: kind that the user wants.

    Returns:
        False for one device, and in a process that has been started already.

    Raises:
        LabError: if there are not so many, or others than these were started.
    """
    check_positive("--devices", devices)
    ranks = this_process()
    if devices == 1:
        return False
    if ranks.size > 1:
        if devices != ranks.local_size:
            raise LabError(
                f"--devices {devices}, but {ranks.local_size} processes were started "
                "on this machine: leave --devices out under torchrun"
            )
        return False
    count = torch.cuda.device_count()
    if device not in _KINDS or (device != "cpu" and devices > count):
        raise LabError(
            f"--devices {devices} of {device}: this machine has {count} GPUs; give "
            "fewer, or --device cpu to try several processes"
        )
    return True


def launch(devices: int, arguments: Sequence[str] | None = None) -> int:
    """Give this process's own command to several processes and wait for them.

    The first one's standard error is shown meanwhile, but for its last words: where one
    process fails the others do, too, and what is said is what made them, once.

    Args:
        devices: how many.
        arguments: of Python, instead of this process's own.

    Returns:
        0; 2 if one of them said what the user can put right; 128 and the number of the
        signal that ended this process, which is 130 after Ctrl-C.
    """
    from torch.distributed.elastic.multiprocessing import (
        DefaultLogsSpecs,
        SignalException,
        Std,
    )
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    cores = os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // devices)))
    command = ["-m", "trainact", *sys.argv[1:]] if arguments is None else arguments
    with TemporaryDirectory(prefix="trainact-") as name:
        folder = Path(name)
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=devices,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            run_id=folder.name,
            max_restarts=0,
            monitor_interval=_SECONDS_BETWEEN_LOOKS,
            logs_specs=DefaultLogsSpecs(log_dir=name, redirects=Std.ERR),
        )
        try:
            with _own_signals(), _no_logging(), _shown(folder):
                elastic_launch(config, sys.executable)(*command)
        except SignalException as error:
            # Ctrl-C reaches the processes as well, of which the first one says this.
            if not _say_what(folder, devices) and error.sigval != signal.SIGINT:
                sys.stdout.write(f"{INTERRUPTED}\n")
            return 128 + error.sigval
        except ChildFailedError as error:
            return _explain(error.failures, devices, folder)
        sys.stderr.write(_errors(folder, 0)[1])
    return EXIT_OK


def _explain(failures: Mapping[int, Any], devices: int, folder: Path) -> int:
    """Say what made the processes fail."""
    if _say_what(folder, devices):
        return EXIT_BAD_INPUT
    rank, failure = min(failures.items(), key=_precedence)
    code = failure.exitcode
    first_words, last_words = _errors(folder, rank)
    sys.stderr.write(last_words if rank == 0 else first_words + last_words)
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    raise LabError(
        f"process {rank} of {devices} ended with {how} and the others were ended: the "
        "same command goes on from the last checkpoint"
    )


def _say_what(folder: Path, devices: int) -> bool:
    """Say what the first process said that said what is wrong, if one did."""
    for rank in range(devices):
        lines = "".join(_errors(folder, rank)).splitlines()
        said = [line for line in lines if line.startswith(_WHAT)]
        if said:
            sys.stderr.write(f"{said[-1]}\n")
            return True
    return False


def _precedence(item: tuple[int, Any]) -> tuple[bool, int, bool, int]:
    """Sorts causes before consequences, such as being ended by the launcher."""
    rank, failure = item
    code = failure.exitcode
    # Times are whole seconds, and what loses its partner ends at once, by itself.
    return code == -signal.SIGTERM, failure.timestamp, code > 0, rank


def _errors(folder: Path, rank: int) -> tuple[str, str]:
    """What a process wrote to standard error, cut where its last words begin."""
    paths = list(folder.glob(f"*/*/{rank}/stderr.log"))
    encoding = sys.stderr.encoding
    text = paths[0].read_text(encoding, errors="replace") if paths else ""
    found = _LAST_WORDS.search(text)
    end = len(text) if found is None else found.start()
    return text[:end], text[end:]


@contextlib.contextmanager
def _shown(folder: Path) -> Generator[None]:
    """Show what the first process writes to standard error while it is at work."""
    ended = threading.Event()

    def show() -> None:
        num_shown, is_last = 0, False
        while not is_last:
            is_last = ended.wait(_SECONDS_BETWEEN_LOOKS)
            text, _ = _errors(folder, 0)
            end = len(text) if is_last else text.rfind("\n") + 1
            if end > num_shown:
                sys.stderr.write(text[num_shown:end])
                sys.stderr.flush()
                num_shown = end

    thread = threading.Thread(target=show)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def _own_signals() -> Generator[None]:
    """Bring back this process's answers to signals, which torchrun's replace."""
    before = {
        number: handler
        for number in signal.valid_signals()
        if (handler := signal.getsignal(number)) is not None
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)


@contextlib.contextmanager
def _no_logging() -> Generator[None]:
    """Silence torchrun's log lines: what became of the processes is said here."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
