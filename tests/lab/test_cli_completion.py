"""Completion in the shells themselves, as far as this machine has them."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.lab.commands import read_terminal
from trainact import cli
from trainact.cli.command import COMMANDS, load
from trainact.lab.completion.main import commands
from trainact.lab.completion.options import CompletionOptions
from trainact.lab.option_fields import option_fields
from trainact.lab.recipes import find_recipes

SHELLS = option_fields(CompletionOptions)[0].choices
LOOK = """
COMP_WORDS=(trainact "$@")
COMP_CWORD=$#
_trainact
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every shell's script, written by the command."""
    folder = tmp_path_factory.mktemp("completion")
    for shell in SHELLS:
        file = (folder / shell).open("w", encoding="utf-8")
        with file, contextlib.redirect_stdout(file):
            assert cli.main(["completion", shell]) == 0
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where paths are completed."""
    folder = tmp_path_factory.mktemp("place")
    for name in ("images", "imagery", "runs"):
        (folder / name).mkdir()
    (folder / "image.txt").touch()
    return folder


def source(scripts: Path) -> str:
    return f"source {shlex.quote(str(scripts / 'bash'))}"


def in_bash(scripts: Path, place: Path, *words: str) -> list[str]:
    """What bash is told for words of which the last is to be completed."""
    done = subprocess.run(
        ["bash", "-c", f"{source(scripts)}\n{LOOK}", "bash", *words],
        cwd=place,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return [line for line in done.stdout.split("\n") if line]


needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="has no bash")


@needs_bash
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("co", ["compare", "completion"]),
        ("-", ["--help", "--version"]),
        ("compare --op", ["--optimizer"]),
        ("compare --optimizer ad", ["adam", "adamw"]),
        ("compare --optimizer = ad", ["adam", "adamw"]),
        ("compare --optimizer sgd --sched", ["--schedule"]),
        ("compare --model mlp small-c", ["small-cnn"]),
        ("compare --model mlp --smal", []),
        ("compare --lr ", []),
        ("compare --lam 0.1 ", []),
        ("compare --data d", ["digits"]),
        ("compare --data im", ["imagefolder:"]),
        ("compare --data imagefolder : image", ["imagery", "images"]),
        ("compare --data = imagefolder : imager", ["imagery"]),
        ("compare --data imagefolder : ", ["imagery", "images", "runs"]),
        ("compare --out image", ["image.txt", "imagery", "images"]),
        ("compare --json --epo", ["--epochs"]),
        ("report ru", ["runs"]),
        ("report runs imagery --o", ["--out"]),
        ("shards m", ["make"]),
        ("shards make --l", ["--limit"]),
        ("shards make im", ["imagefolder:"]),
        ("shards index ima", ["image.txt", "imagery", "images"]),
        ("completion ", list(SHELLS)),
        ("run fig6", ["fig6"]),
        ("sweep fig6 fig3-adam-8", ["fig3-adam-800"]),
        ("run fig6 --method tract+s", ["tract+sgd"]),
        ("run fig6 --data webd", ["webdataset:"]),
        ("bench --arms torch", ["torch-tract"]),
        ("inspect resnet18 --pix", ["--pixels"]),
    ],
)
def test_bash(scripts: Path, place: Path, typed: str, expected: list[str]) -> None:
    assert sorted(in_bash(scripts, place, *typed.split(" "))) == sorted(expected)


@needs_bash
def test_bash_without_a_beginning(scripts: Path, place: Path) -> None:
    assert in_bash(scripts, place, "") == [*COMMANDS]
    offered = in_bash(scripts, place, "run", "")
    assert "fig3-sgd-100" in offered
    assert [recipe.name for recipe in find_recipes(offered)] == offered
    # A second recipe is not for `run`, so its options are offered.
    assert "--smoke" in in_bash(scripts, place, "run", "fig6", "")
    assert {"table1", "table4", "fig3-sgd-100"} <= {
        *in_bash(scripts, place, "recipes", "")
    }


@needs_bash
def test_bash_knows_every_option(scripts: Path, place: Path) -> None:
    for name, command in COMMANDS.items():
        options = load(command.options)
        below = getattr(options, "subcommands", {"": options})
        for own, kind in below.items():
            path = [name, own] if own else [name]
            flags = [f.flag for f in option_fields(kind) if not f.is_positional]
            assert in_bash(scripts, place, *path, "-") == ["--help", *flags]


@needs_bash
def test_a_real_bash_takes_it_on_the_tab_key(scripts: Path, place: Path) -> None:
    """Through readline, which breaks words and knows what to do after a colon."""
    ours, theirs = os.openpty()
    with subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=place,
        env={**os.environ, "TERM": "dumb", "PS1": "", "trainact": ""},
        start_new_session=True,
    ) as shell:
        os.close(theirs)
        lines = (
            f'{source(scripts)}; trainact() {{ echo "<$*>"; }}',
            "trainact sh\tm\timagefolder:imager\t --limit 3",
            "trainact compare --data=imagefolder:ru\t --model mlp small-c\t",
            "exit",
        )
        os.write(ours, "".join(f"{line}\n" for line in lines).encode())
        text = read_terminal(ours)
        assert shell.wait(timeout=60) == 0
    assert "<shards make imagefolder:imagery/ --limit 3>" in text
    assert "<compare --data=imagefolder:runs/ --model mlp small-cnn>" in text


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_reads_it(scripts: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"this machine has no {shell}")
    subprocess.run([shell, "-n", str(scripts / shell)], check=True)


FISH = """
source $argv[1]
complete -C $argv[2] | string replace -r '\\t.*' ''
true  # also where nothing was replaced
"""


@pytest.mark.skipif(shutil.which("fish") is None, reason="has no fish")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("co", {"compare", "completion"}),
        ("compare --optimizer ad", {"adam", "adamw"}),
        ("compare --model mlp small-c", {"small-cnn"}),
        ("compare --data imagefolder:imager", {"imagefolder:imagery/"}),
        ("shards make --l", {"--limit"}),
        ("sweep fig6 fig3-adam-8", {"fig3-adam-800"}),
    ],
)
def test_fish(scripts: Path, place: Path, typed: str, expected: set[str]) -> None:
    arguments = (str(scripts / "fish"), f"trainact {typed}")
    done = subprocess.run(
        ["fish", "--no-config", "-c", FISH, *arguments],
        cwd=place,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) == expected


def test_every_shell_is_told_of_every_command_option_and_word(scripts: Path) -> None:
    texts = {s: (scripts / s).read_text(encoding="utf-8") for s in SHELLS}
    assert len(texts) == 3
    for text in texts.values():
        assert "@TABLE@" not in text
        for command in commands():
            assert command.path[-1] in text
            for option in command.options:
                assert option.flag.removeprefix("--") in text
                assert " ".join(option.words) in text
