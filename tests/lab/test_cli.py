"""The command line without the lab: help, version, what to install."""

from __future__ import annotations

import subprocess
import sys

import pytest

import trainact
from trainact import cli


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"trainact {trainact.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 0
    assert "compare" in capsys.readouterr().out


def test_no_command_shows_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "usage" in capsys.readouterr().out


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compar"]) == 2
    err = capsys.readouterr().err
    assert "'compar' is not a command (did you mean 'compare'?)" in err
    assert err.count("\n") == 1


def test_every_command_can_be_loaded() -> None:
    for command in cli.COMMANDS.values():
        for reference in (command.options, command.main):
            module, _, attribute = reference.partition(":")
            assert hasattr(__import__(module, fromlist=[attribute]), attribute)


def test_compare_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["compare", "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for option in ("--data", "--model", "--lam", "--lr", "--seeds", "--out"):
        assert option in out


@pytest.mark.parametrize("missing", ["tyro", "lightning", "sklearn"])
def test_without_the_lab(missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from trainact import cli\n"
        "sys.exit(cli.main(['compare', '--epochs', '1']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'trainact[lab]'" in done.stderr


def test_the_command_line_itself_needs_no_lab() -> None:
    code = (
        "import sys, trainact.cli\n"
        "lab = {'lightning', 'tyro', 'rich', 'torchvision', 'timm', 'sklearn'}\n"
        "trainact.cli.main(['--help'])\n"
        "sys.exit(len(lab & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert done.returncode == 0
