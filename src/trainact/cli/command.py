"""The command ``trainact``; each subcommand is one entry of `COMMANDS`.

This file imports neither the lab nor what it needs, so that it works, and says what to
install, where only the core is installed.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from trainact._version import __version__
from trainact.cli.exit_codes import (
    EXIT_BAD_INPUT,
    EXIT_BROKEN_PIPE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_TERMINATED,
)
from trainact.cli.streams import flushed, give_up_output, is_unread, prepare_streams


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
        group: heading under which ``trainact --help`` lists it.
        summary: one line there.
        options: ``module:class`` of its options, a dataclass that tyro can read.
        main: ``module:function`` that takes them and returns an exit code.
    """

    group: str
    summary: str
    options: str
    main: str


_YOURS = "your model and your data"
_PAPER = "the paper's experiments"
_AROUND = "results, data and your shell"
COMMANDS = {
    "compare": Command(
        group=_YOURS,
        summary="train the same model with several methods and compare them",
        options="trainact.lab.options:CompareOptions",
        main="trainact.lab.compare:main",
    ),
    "inspect": Command(
        group=_YOURS,
        summary="show a model's first layers and what they see of your data",
        options="trainact.lab.options:InspectOptions",
        main="trainact.lab.inspect:main",
    ),
    "bench": Command(
        group=_YOURS,
        summary="measure what TrAct costs in time and memory, also on your model",
        options="trainact.lab.bench.options:BenchOptions",
        main="trainact.lab.bench.main:main",
    ),
    "recipes": Command(
        group=_PAPER,
        summary="list the paper's experiments, or show one",
        options="trainact.lab.recipe_list_options:RecipesOptions",
        main="trainact.lab.recipe_list:main",
    ),
    "run": Command(
        group=_PAPER,
        summary="train one of the paper's experiments",
        options="trainact.lab.run_options:RunOptions",
        main="trainact.lab.run_recipe:main",
    ),
    "sweep": Command(
        group=_PAPER,
        summary="train many of them, side by side or on a cluster",
        options="trainact.lab.run_options:SweepOptions",
        main="trainact.lab.sweep:main",
    ),
    "report": Command(
        group=_AROUND,
        summary="draw and compare what was recorded, beside the paper's numbers",
        options="trainact.lab.reporting.options:ReportOptions",
        main="trainact.lab.reporting.main:main",
    ),
    "shards": Command(
        group=_AROUND,
        summary="write a folder of images as WebDataset shards, or index some",
        options="trainact.lab.shards_options:ShardsOptions",
        main="trainact.lab.shards:main",
    ),
    "completion": Command(
        group=_AROUND,
        summary="write a script that completes commands in bash, zsh or fish",
        options="trainact.lab.completion.options:CompletionOptions",
        main="trainact.lab.completion.main:main",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, by default with the process's own arguments.

    Returns:
        The exit code: 0, 1 where `bench` found something broken or a run of `sweep`
        failed, 2 for bad input, 130 after Ctrl-C, 141 where nobody reads the output any
        more, 143 after SIGTERM. The help of a command, and options that it does not
        know, raise SystemExit instead.
    """
    prepare_streams()
    try:
        return flushed(lambda: _main(sys.argv[1:] if argv is None else argv))
    except BrokenPipeError:
        if not is_unread():
            raise
        give_up_output()
        return EXIT_BROKEN_PIPE
    except SystemExit as stop:
        # How rich ends the process where a pipe is broken.
        if isinstance(stop.__context__, BrokenPipeError):
            return EXIT_BROKEN_PIPE
        raise
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        give_up_output()
        return _fail(f"{error.strerror}: make room and give the same command again")


def _main(arguments: Sequence[str]) -> int:
    if not arguments:
        return _show(usage(), sys.stderr, EXIT_BAD_INPUT)
    if arguments[0] in ("-h", "--help"):
        return _show(usage())
    if arguments[0] in ("-V", "--version"):
        return _show(f"trainact {__version__}")
    command = COMMANDS.get(arguments[0])
    if command is None:
        return _fail(_unknown(arguments[0]))
    return _run(arguments[0], command, arguments[1:])


def usage() -> str:
    """The help of the command without a subcommand."""
    width = max(map(len, COMMANDS))
    lines = ["usage: trainact [--help] [--version] COMMAND ..."]
    for group in dict.fromkeys(command.group for command in COMMANDS.values()):
        lines += ["", f"{group}:"]
        lines += [
            f"  {name:<{width}}  {command.summary}"
            for name, command in COMMANDS.items()
            if command.group == group
        ]
    lines += ["", "`trainact COMMAND --help` lists a command's options."]
    return "\n".join(lines)


def _run(name: str, command: Command, arguments: Sequence[str]) -> int:
    with _terminable() as is_terminated:
        code = _try_to_run(name, command, arguments)
        return EXIT_TERMINATED if is_terminated() else code


@contextlib.contextmanager
def _terminable() -> Generator[Callable[[], bool]]:
    """Make SIGTERM end the command as Ctrl-C does, and tell whether it was received.

    One of several processes ends at once instead: their launcher says what happened.
    """
    received: list[int] = []

    def interrupt(number: int, _: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    if "RANK" in os.environ or threading.current_thread() != threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGTERM, before)


def _try_to_run(name: str, command: Command, arguments: Sequence[str]) -> int:
    try:
        return _run_lab(name, command, arguments)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "trainact":
            raise
        return _fail(
            f"`trainact {name}` needs {error.name}, which is not installed: "
            "pip install 'trainact[lab]'"
        )
    except KeyboardInterrupt:
        return _fail("interrupted", EXIT_INTERRUPTED)


def _run_lab(name: str, command: Command, arguments: Sequence[str]) -> int:
    from trainact.lab.command_line import parse
    from trainact.lab.errors import LabError, is_utf8

    for argument in arguments:
        if not is_utf8(argument):
            return _fail(f"{argument!r} is not UTF-8: rename what it names")
    try:
        return load(command.main)(parse(name, load(command.options), arguments))
    except LabError as error:
        return _fail(str(error))
    except PermissionError as error:
        return _fail(
            f"cannot use {error.filename} ({error.strerror}): change its permissions "
            "or give another path"
        )


def load(reference: str) -> Any:
    """Import ``module:attribute``."""
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), COMMANDS, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{name!r} is not a command{hint}: give one of {', '.join(COMMANDS)}"


def _fail(message: str, code: int = EXIT_BAD_INPUT) -> int:
    return _show(f"trainact: {message}", sys.stderr, code)


def _show(text: str, stream: TextIO | None = None, code: int = EXIT_OK) -> int:
    print(text, file=stream)
    return code
