"""The command ``trainact``; each subcommand is one entry of `COMMANDS`.

This file imports neither the lab nor what it needs, so that it works, and says what to
install, where only the core is installed.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from trainact._version import __version__

EXIT_OK = 0
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
        summary: one line for ``trainact --help``.
        options: ``module:class`` of its options, a dataclass that tyro can read.
        main: ``module:function`` that takes them and returns an exit code.
    """

    summary: str
    options: str
    main: str


COMMANDS = {
    "bench": Command(
        summary="measure what TrAct costs in time and memory, on cases or your model",
        options="trainact.lab.bench.options:BenchOptions",
        main="trainact.lab.bench.main:main",
    ),
    "compare": Command(
        summary="train the same model with several methods and compare them",
        options="trainact.lab.options:CompareOptions",
        main="trainact.lab.compare:main",
    ),
    "inspect": Command(
        summary="show a model's first layers and what they see of your data",
        options="trainact.lab.options:InspectOptions",
        main="trainact.lab.inspect:main",
    ),
    "recipes": Command(
        summary="list the paper's experiments, or show one",
        options="trainact.lab.recipe_list_options:RecipesOptions",
        main="trainact.lab.recipe_list:main",
    ),
    "report": Command(
        summary="draw and compare what was recorded, beside the paper's numbers",
        options="trainact.lab.reporting.options:ReportOptions",
        main="trainact.lab.reporting.main:main",
    ),
    "run": Command(
        summary="train one of the paper's experiments",
        options="trainact.lab.run_options:RunOptions",
        main="trainact.lab.run_recipe:main",
    ),
    "shards": Command(
        summary="write a folder of images as WebDataset shards, or index such shards",
        options="trainact.lab.shards_options:ShardsOptions",
        main="trainact.lab.shards:main",
    ),
    "sweep": Command(
        summary="train many of the paper's experiments, side by side or on a cluster",
        options="trainact.lab.run_options:SweepOptions",
        main="trainact.lab.sweep:main",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; by default the process's own.

    Returns:
        The exit code: 0, 1 where `bench` found something broken or a run of `sweep`
        failed, 2 for bad input, 130 after Ctrl-C, 143 after SIGTERM.
    """
    _tolerate_any_encoding()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return EXIT_OK if arguments else EXIT_BAD_INPUT
    if arguments[0] in ("-V", "--version"):
        print(f"trainact {__version__}")
        return EXIT_OK
    command = COMMANDS.get(arguments[0])
    if command is None:
        return _fail(_unknown(arguments[0]))
    return _run(arguments[0], command, arguments[1:])


def usage() -> str:
    """Write the help of the command without a subcommand.

    Returns:
        The text.
    """
    width = max(map(len, COMMANDS))
    commands = [f"  {name:<{width}}  {c.summary}" for name, c in COMMANDS.items()]
    return "\n".join(
        [
            "usage: trainact [--help] [--version] COMMAND ...",
            "",
            "commands:",
            *commands,
            "",
            "`trainact COMMAND --help` lists a command's options.",
        ]
    )


def _run(name: str, command: Command, arguments: Sequence[str]) -> int:
    with _terminable() as is_terminated:
        code = _try_to_run(name, command, arguments)
        return EXIT_TERMINATED if is_terminated() else code


@contextlib.contextmanager
def _terminable() -> Generator[Callable[[], bool]]:
    """Make SIGTERM end the command as Ctrl-C does, with what is finished shown.

    One of several processes ends at once instead: their launcher says what happened.

    Yields:
        Says whether SIGTERM was received.
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
    import tyro

    from trainact.lab.errors import LabError

    try:
        options = tyro.cli(
            load(command.options), args=list(arguments), prog=f"trainact {name}"
        )
        return load(command.main)(options)
    except LabError as error:
        return _fail(str(error))


def load(reference: str) -> Any:
    """Import what a command names.

    Args:
        reference: ``module:attribute``.

    Returns:
        The attribute.
    """
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{name!r} is not a command{hint}: give one of {', '.join(COMMANDS)}"


def _fail(message: str, code: int = EXIT_BAD_INPUT) -> int:
    print(f"trainact: {message}", file=sys.stderr)
    return code


def _tolerate_any_encoding() -> None:
    """Show λ and ± where the output's encoding has them, a ``?`` where it has not."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


if __name__ == "__main__":
    sys.exit(main())
