"""Scripts that complete commands: one table of what can follow what, for any shell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources

from trainact.lab.completion.options import Shell


@dataclass(frozen=True)
class Completed:
    """An option, or what stands without one, and what can be its value.

    Attributes:
        flag: as typed; empty for what is positional.
        text: what it is, briefly.
        takes: how many words: none, one or many.
        words: that can be given; after one that ends in a colon comes a folder.
        paths: whether paths can be given.
    """

    flag: str
    text: str
    takes: str
    words: tuple[str, ...] = ()
    paths: bool = False


@dataclass(frozen=True)
class CompletedCommand:
    """A command or, under a command, one of its own.

    Attributes:
        path: words that lead to it, such as ``("shards", "make")``.
        text: what it does.
        below: names of its own commands.
        options: of the command, its positional arguments among them.
    """

    path: tuple[str, ...]
    text: str
    below: tuple[str, ...]
    options: tuple[Completed, ...]


def write_script(shell: Shell, commands: Sequence[CompletedCommand]) -> str:
    """Write a script.

    Args:
        shell: that is to read it.
        commands: all, each before its own ones.

    Returns:
        The text.
    """
    write = {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]
    templates = resources.files("trainact.lab.completion") / "templates"
    template = (templates / f"trainact.{shell}").read_text(encoding="utf-8")
    return template.replace("@TABLE@\n", "".join(f"{x}\n" for x in write(commands)))


def _bash(commands: Sequence[CompletedCommand]) -> Iterator[str]:
    tops = " ".join(c.path[0] for c in commands if len(c.path) == 1)
    yield _case("", "below", tops)
    yield _case(" -", "one", "--help --version")
    for command in commands:
        path = " ".join(command.path)
        if command.below:
            yield _case(path, "below", " ".join(command.below))
        flags = [option.flag for option in command.options if option.flag]
        yield _case(f"{path} -", "one", " ".join(flags))
        for option in command.options:
            if option.takes != "none":
                key = f"{path} {option.flag}".rstrip()
                yield _case(key, option.takes, " ".join(option.words), option.paths)


def _case(key: str, takes: str, words: str, paths: bool = False) -> str:
    line = f'    "{key}") takes={takes}'
    line += f" words='{words}'" if words else ""
    return line + (" paths=yes" if paths else "") + " ;;"


def _zsh(commands: Sequence[CompletedCommand]) -> Iterator[str]:
    yield from _zsh_choice((), [c for c in commands if len(c.path) == 1])
    for command in commands:
        if command.below:
            own = [c for c in commands if c.path[:-1] == command.path]
            yield from _zsh_choice(command.path, own)
            continue
        yield f"{_function(command.path)}() {{"
        yield "    _arguments \\"
        specs = [f"        {_quote(_zsh_option(o))}" for o in command.options]
        yield " \\\n".join(specs)
        yield "}"
        yield ""


def _zsh_choice(
    path: tuple[str, ...], commands: Sequence[CompletedCommand]
) -> Iterator[str]:
    """A function that completes a command's name and leaves the rest to its own."""
    name = _function(path)
    named = (_quote(f"{command.path[-1]}:{command.text}") for command in commands)
    options = "--help" if path else "--help --version"
    yield from (
        f"{name}() {{",
        "    local state line",
        "    local -a names=(",
        *(f"        {text}" for text in named),
        "    )",
        f"    _arguments -C {options} '1: :->name' '*:: :->rest'",
        "    case $state in",
        "    name) _describe command names ;;",
        f"    rest) (( $+functions[{name}_$words[1]] )) && {name}_$words[1] ;;",
        "    esac",
        "}",
        "",
    )


def _function(path: tuple[str, ...]) -> str:
    return "_".join(("_trainact", *path))


def _zsh_option(option: Completed) -> str:
    if any(word.endswith(":") for word in option.words):
        action = f"_trainact_data {' '.join(option.words)}"
    elif option.words:
        action = f"({' '.join(option.words)})"
    else:
        action = "_files" if option.paths else " "
    if not option.flag:
        return f"{'*' if option.takes == 'many' else '1'}: :{action}"
    text = option.text.replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")
    if option.takes == "none":
        return f"{option.flag}[{text}]"
    if option.takes == "many":
        return f"{option.flag}[{text}]:*-*: :{action}"
    return f"{option.flag}=[{text}]: :{action}"


def _fish(commands: Sequence[CompletedCommand]) -> Iterator[str]:
    yield from ("complete -c trainact -n __trainact_at -l help -l version",)
    for command in commands:
        at = " ".join(("__trainact_at", *command.path[:-1]))
        yield f"complete -c trainact -n {_quote(at)} -a {command.path[-1]} " + (
            f"-d {_quote(command.text)}"
        )
    for command in commands:
        place = " ".join(("__trainact_in", *command.path))
        for option in command.options:
            yield from _fish_option(place, option)


def _fish_option(place: str, option: Completed) -> Iterator[str]:
    values = ["-F"] if option.paths else []
    if option.words:
        befores = " ".join(word for word in option.words if word.endswith(":"))
        folders = f" (__trainact_folders {befores})" if befores else ""
        values += ["-a", _quote(" ".join(option.words) + folders)]
    start = f"complete -c trainact -n {_quote(place)}"
    if not option.flag:
        yield " ".join((start, *values))
        return
    start += f" -l {option.flag.removeprefix('--')} -d {_quote(option.text)}"
    if option.takes == "none":
        yield start
        return
    yield " ".join((start, "-r" if option.paths else "-x", *values))
    if option.takes == "many" and values:
        fills = _quote(f"{place}; and __trainact_fills {option.flag}")
        yield " ".join((f"complete -c trainact -n {fills}", *values))


def _quote(text: str) -> str:
    r"""In single quotes, for a shell that knows ``'\''``, as all three do."""
    return "'" + text.replace("'", "'\\''") + "'"
