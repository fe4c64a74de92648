"""Mistakes of users, over all commands: one line that helps, exit code 2, no traceback.

Those of `trainact compare` are in test_bad_input.py, what the parser refuses in
test_cli_help.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.lab.conftest import make_folder, make_images
from trainact import cli

MODULE = """
from torch import nn

nothing_to_call = 3

def fails():
    raise RuntimeError("no weights\\nsecond line")

def fails_inside_torch():
    return nn.Linear("two", 3)

def misses_a_package():
    import a_package_that_is_not_there

def exits():
    raise SystemExit(3)

def takes_something(depth):
    return nn.Linear(depth, 2)

class Fails(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x + {}["missing"])
"""
SMOKE = ("--smoke", "--device", "cpu", "--logger", "none")
FINETUNE = ("run", "table3-vit-s-400-finetune", *SMOKE, "--seed", "0")

Says = Callable[..., str]


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with much that is wrong."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "models_of_mine.py").write_text(MODULE)
    (folder / "broken_of_mine.py").write_text("def build(:\n")
    (folder / "failing_of_mine.py").write_text("x = 1\ny = x / 0\n")
    (folder / "needy_of_mine.py").write_text("import a_package_that_is_not_there\n")
    make_folder(folder / "images")
    make_images(folder / "one" / "cat", 4)
    (folder / "empty").mkdir()
    (folder / "file").write_text("not a record\n")
    (folder / "corrupt").mkdir()
    records = folder / "corrupt" / "records.jsonl"
    records.write_bytes(b'{"schema": 1, "acc\n[]\n3\n' + bytes(range(256)))
    torch.save({"a": torch.zeros(2)}, folder / "other.pt")
    (folder / "junk.pt").write_bytes(b"junk")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture
def says(capsys: pytest.CaptureFixture[str]) -> Says:
    """What the command says about a mistake: a line, and nothing that was done."""

    def run(*arguments: str) -> str:
        assert cli.main([*arguments]) == 2
        err = capsys.readouterr().err
        assert err.startswith("trainact: ")
        assert err.count("\n") == 1, err
        return err

    return run


@pytest.mark.parametrize("command", ["inspect", "bench"])
@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("resnet19", "is not known (did you mean 'resnet18'"),
        ("", "model '' is not known"),
        ("nowhere:build", "there is no module 'nowhere'; a source of models is"),
        ("models_of_mine.py:fails", "write it without .py, as models_of_mine:NAME"),
        ("models_of_mine:wrong", "module 'models_of_mine' has no attribute 'wrong'"),
        ("models_of_mine:nothing_to_call", "is of type int: name a function"),
        ("models_of_mine:takes_something", "called without arguments, which it does"),
        (
            "models_of_mine:fails",
            ":fails: RuntimeError: no weights (in models_of_mine.py, line 7)",
        ),
        (
            "models_of_mine:fails_inside_torch",
            "(in models_of_mine.py, line 10)",
        ),
        (
            "models_of_mine:misses_a_package",
            "No module named 'a_package_that_is_not_there' (in models_of_mine.py, line",
        ),
        ("models_of_mine:exits", ":exits: SystemExit: 3 (in models_of_mine.py, line"),
        (
            "broken_of_mine:build",
            "imported (SyntaxError: invalid syntax (broken_of_mine.py, line 1)",
        ),
        (
            "failing_of_mine:build",
            "(ZeroDivisionError: division by zero (in failing_of_mine.py, line 2))",
        ),
        (
            "needy_of_mine:build",
            "no module 'a_package_that_is_not_there' (in needy_of_mine.py, line",
        ),
    ],
)
def test_models(command: str, model: str, expected: str, says: Says) -> None:
    option = ("--model",) if command == "bench" else ()
    assert expected in says(command, *option, model)


def test_a_model_whose_forward_fails(says: Says) -> None:
    """A KeyError of the model's own; one of this package's stays a traceback."""
    err = says("inspect", "models_of_mine:Fails", "--layer", "conv")
    assert (
        "does not take images of 3 x 224 x 224 (KeyError: 'missing' (in models" in err
    )


def test_a_failure_of_our_own_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("trainact.first_layers", lambda *_, **__: broken())
    monkeypatch.setattr(
        "trainact.lab.importing._is_library", lambda path: path == Path(__file__)
    )
    with pytest.raises(KeyError, match="a bug"):
        cli.main(["inspect", "small-cnn"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--image-size", "0"), "--image-size 0: give a finite number above 0"),
        (("--image-size", "-5"), "--image-size -5"),
        (("--image-size", "3000000"), "an image of 3 x 3000000 x 3000000 does not fit"),
        (("--lam", "-1"), "--lam -1.0: give a finite number above 0"),
        (("--lam", "inf"), "--lam inf"),
        (("--images", "0"), "--images 0"),
        (("--batch-size", "-1"), "--batch-size -1"),
        (("--layer", "nose"), "no layer 'nose'"),
        (("--data", "webdataset:x"), "is not known: give one of digits"),
        (("--data", "imagefolder:empty"), "empty has no class folders"),
        (("--data", "imagefolder:file"), "is not a folder"),
        (("--data", "imagefolder:one"), "one class only (cat)"),
        (("--data", "imagefolder:images", "--images", "1"), "--images 1 is less than"),
        (("--data", "digits", "--image-size", "9"), "so leave it out"),
    ],
)
def test_inspect(arguments: tuple[str, ...], expected: str, says: Says) -> None:
    assert expected in says("inspect", "small-cnn", *arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--cases", "resnet"), "case 'resnet' is not known"),
        (("--cases",), "--cases was given without a value"),
        (("--arms", "trainakt"), "is not known (did you mean 'trainact'"),
        (("--modes", "fast"), "mode 'fast' is not known"),
        (("--lam", "nan"), "--lam nan"),
        (("--threads", "0"), "--threads 0"),
        (("--rounds", "1"), "a spread needs at least 2"),
        (("--device", "tpu"), "--device 'tpu' is not a device"),
        (("--model", "mlp", "--cases", "vit-cifar"), "say different things"),
        (("--out", "empty"), "is a folder: give a file, such as empty/bench.jsonl"),
        (("--out", "file/bench.jsonl"), "cannot write to file"),
    ],
)
def test_bench(arguments: tuple[str, ...], expected: str, says: Says) -> None:
    assert expected in says("bench", *arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "RUNS is missing"),
        (("nowhere",), "nowhere does not exist"),
        (("empty",), "holds no records.jsonl"),
        (("file",), "no finished run in file"),
        (("corrupt",), "no finished run in corrupt"),
        (("junk.pt",), "no finished run in junk.pt"),
    ],
)
def test_report(arguments: tuple[str, ...], expected: str, says: Says) -> None:
    assert expected in says("report", *arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("recipes", "fig99"), "is not known (did you mean 'fig9'"),
        (("run", "fig99"), "is not known (did you mean 'fig9'"),
        (("run", "FIG3"), "is not known (did you mean 'fig3'"),
        (("recipes", "Table1-VGG16"), "is not known (did you mean 'table1-vgg16'"),
        (("RUN", "fig3"), "'RUN' is not a command (did you mean 'run'?)"),
        (("run", "fig6", *SMOKE, "--method", "TrAct"), "(did you mean 'tract'"),
        (("run", "fig3"), "stands for 8 recipes"),
        (("sweep",), "RECIPES is missing: give a name that `trainact recipes` lists"),
        (("sweep", "fig3", "fig99"), "recipe 'fig99' is not known"),
        (("sweep", "fig6", "--seeds", "0"), "--seeds 0"),
        (("sweep", "fig6", "--jobs", "0"), "--jobs 0"),
        (("run", "fig6", *SMOKE, "--lam", "-0.1"), "--lam -0.1"),
        (("run", "fig6", *SMOKE, "--lr", "0"), "--lr 0.0"),
        *(
            (("run", "fig6", *SMOKE, "--checkpoint-seconds", seconds), "of seconds, or")
            for seconds in ("nan", "inf", "-1")
        ),
        (("run", "fig6", *SMOKE, "--method", "trakt"), "did you mean 'tract'"),
        (("run", "fig6", *SMOKE, "--method", "broken_of_mine:M"), "SyntaxError"),
        (("run", "fig6", *SMOKE, "--data", "cifar"), "data 'cifar' is not known"),
        (("run", "fig6", *SMOKE, "--out", "file"), "cannot write to file"),
        ((*FINETUNE, "--weights", "nowhere.pt"), "cannot read the weights nowhere.pt"),
        (
            (*FINETUNE, "--method", "vanilla", "--weights", "junk.pt"),
            "cannot read the weights junk.pt (it is damaged: ",
        ),
        (
            (*FINETUNE, "--method", "vanilla", "--weights", "other.pt"),
            "these weights are of another network",
        ),
    ],
)
def test_recipes(arguments: tuple[str, ...], expected: str, says: Says) -> None:
    assert expected in says(*arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "`trainact shards`: a command is missing: give one of make, index"),
        (("mke",), "'mke' is not one of its commands (did you mean 'make'?)"),
        (("make", "images", "--out", "new"), "'images': give imagefolder:PATH"),
        (("make", "imagefolder:nowhere", "--out", "new"), "does not exist"),
        (("make", "imagefolder:images", "--out", "file"), "cannot write to file"),
        (("make", "imagefolder:images", "--out", "images"), "is not empty"),
        (
            ("make", "imagefolder:images", "--out", "new", "--shard-mb", "0"),
            "--shard-mb 0.0",
        ),
        (("make", "imagefolder:images"), "--out"),
        (("index", "nowhere"), "nowhere is not a folder"),
        (("index", "empty"), "empty has no .tar files"),
    ],
)
def test_shards(
    arguments: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = cli.main(["shards", *arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert expected in capsys.readouterr().err


@pytest.fixture
def closed(place: Path) -> Iterator[str]:
    """A folder that this user may not look into."""
    folder = place / "closed"
    folder.mkdir()
    folder.chmod(0)
    try:
        if os.access(folder, os.R_OK):
            pytest.skip("this user may read everything")
        yield folder.name
    finally:
        folder.chmod(0o700)
        folder.rmdir()


def test_what_may_not_be_read(closed: str, says: Says) -> None:
    denied = f"cannot use {closed} (Permission denied)"
    assert denied in says("inspect", "mlp", "--data", f"imagefolder:{closed}")
    assert denied in says("report", closed)
    assert denied in says("shards", "make", f"imagefolder:{closed}", "--out", "new")
    assert "Permission denied" in says("shards", "index", closed)


def test_what_may_not_be_written(closed: str, says: Says) -> None:
    out = ("--out", f"{closed}/runs")
    assert "Permission denied" in says("compare", *out)
    assert "Permission denied" in says("run", "fig6", *SMOKE, *out)
    assert "Permission denied" in says("bench", "--out", f"{closed}/bench.jsonl")
