"""The command line itself: help, version, exit codes, what to install."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest

import trainact
from trainact import cli
from trainact.cli import exit_codes
from trainact.cli.command import COMMANDS, load

PAGE = Path(__file__).parents[2] / "docs/cli.md"


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("arguments", [["--version"], ["-V"]])
def test_version(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out == f"trainact {trainact.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"  {name} " in out
        assert command.summary in out
    assert max(map(len, out.splitlines())) <= 80


def test_no_command_shows_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    captured = capsys.readouterr()
    assert "usage" in captured.err
    assert captured.out == ""


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compar"]) == 2
    err = capsys.readouterr().err
    assert "'compar' is not a command (did you mean 'compare'?)" in err
    assert err.count("\n") == 1


def test_every_command_can_be_loaded() -> None:
    for command in COMMANDS.values():
        assert isinstance(load(command.options), type)
        assert callable(load(command.main))


def test_the_page_lists_the_commands_and_exit_codes() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \| ", page, re.M)[: len(COMMANDS)] == [*COMMANDS]
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.M)}
    assert listed == {
        code for name, code in vars(exit_codes).items() if name.startswith("EXIT_")
    }


@pytest.mark.parametrize("command", ["compare", "completion"])
def test_without_tyro(command: str) -> None:
    done = run_python(
        "import sys; sys.modules['tyro'] = None\n"
        "from trainact import cli\n"
        f"sys.exit(cli.main([{command!r}, 'bash']))"
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f"trainact: `trainact {command}` needs tyro, which is not installed: "
        "pip install 'trainact[lab]'\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["lightning", "sklearn"])
def test_without_the_lab(missing: str) -> None:
    done = run_python(
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from trainact import cli\n"
        "sys.exit(cli.main(['compare', '--epochs', '1']))"
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'trainact[lab]'" in done.stderr


def test_the_command_line_itself_needs_neither_lab_nor_torch() -> None:
    done = run_python(
        "import sys, trainact.cli\n"
        "lab = {'lightning', 'tyro', 'rich', 'torchvision', 'timm', 'sklearn'}\n"
        "trainact.cli.main(['--help'])\n"
        "sys.exit(len((lab | {'torch'}) & set(sys.modules)))"
    )
    assert done.returncode == 0


def put_in_place(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let `trainact recipes` raise."""

    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr("trainact.lab.recipe_list.main", fail)


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    bugs = (
        ValueError("bug"),
        OSError(errno.EIO, "bug"),
        FileNotFoundError("bug"),
        BrokenPipeError(errno.EPIPE, "bug"),  # of another pipe than the output
    )
    for bug in bugs:
        put_in_place(monkeypatch, bug)
        with pytest.raises(type(bug), match="bug"):
            cli.main(["recipes"])


def test_a_full_disk_is_no_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_in_place(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    assert cli.main(["recipes"]) == 2
    err = capsys.readouterr().err
    assert err == (
        "trainact: No space left on device: make room and give the same command again\n"
    )


def test_a_path_that_may_not_be_used_is_no_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_in_place(monkeypatch, PermissionError(errno.EACCES, "Permission denied", "a/b"))
    assert cli.main(["recipes"]) == 2
    err = capsys.readouterr().err
    assert "cannot use a/b (Permission denied)" in err
    assert err.count("\n") == 1
