"""The command from end to end, small: files, resuming, pairing, honesty."""

from __future__ import annotations

import html
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.lab.conftest import TINY, Cli, make_folder
from trainact import cli
from trainact.lab.command_line import parse
from trainact.lab.options import CompareOptions
from trainact.lab.records import RecordFile


def records_of(out: Path) -> list[dict[str, Any]]:
    text = (out / "records.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_it_writes_everything(compare: Cli, tmp_path: Path) -> None:
    arguments = ("--lam", "0.1", "0.5", "--seeds", "0", "1")
    outcome = compare(*TINY, *arguments)
    out = tmp_path / "out"
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    assert "[6/6]" in outcome.out
    assert "\x1b" not in outcome.out, "a pipe wants no terminal codes"
    records, warnings = RecordFile(out / "records.jsonl").read()
    assert warnings == []
    assert [(r.config.seed, r.config.arm) for r in records] == [
        (seed, arm)
        for seed in (0, 1)
        for arm in ("vanilla", "tract λ=0.1", "tract λ=0.5")
    ]
    for record in records:
        assert len(record.accuracy) == len(record.loss) == len(record.seconds) == 2
        assert record.layers == (() if record.config.method == "vanilla" else ("fc1",))
        assert record.num_parameters == 64 * 256 + 256 + 256 * 257 + 10 * 257
        assert (record.data["train"], record.data["test"]) == (100, 450)
    assert len({record.loss for record in records}) == 6, "every arm trains its own way"
    with Image.open(out / "curves.png") as image:
        assert min(image.size) > 400
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert [arm["label"] for arm in summary["models"]["mlp"]["arms"]] == [
        "vanilla",
        "tract λ=0.1",
        "tract λ=0.5",
    ]
    cells = f"{summary['models']['mlp']['arms'][1]['final_mean']:.4f}"
    assert cells in (out / "summary.md").read_text(encoding="utf-8")
    assert cells in outcome.out


def test_the_same_command_again_trains_nothing(
    compare: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (*TINY, "--seeds", "0")
    assert compare(*arguments).code == 0
    before = (tmp_path / "out" / "records.jsonl").read_bytes()
    summary = (tmp_path / "out" / "summary.json").read_bytes()

    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("trainact.lab.jobs.train", refuse)
    outcome = compare(*arguments)
    assert outcome.code == 0
    assert "2 of 2 runs found" in outcome.out
    assert (tmp_path / "out" / "records.jsonl").read_bytes() == before
    assert (tmp_path / "out" / "summary.json").read_bytes() == summary


def test_only_what_is_missing_is_trained(compare: Cli, tmp_path: Path) -> None:
    assert compare(*TINY, "--seeds", "0", "1").code == 0
    path = tmp_path / "out" / "records.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:40])  # as after a crash
    outcome = compare(*TINY, "--seeds", "0", "1")
    assert "2 of 4 runs found" in outcome.out
    assert "[2/2]" in outcome.out
    assert "line 3 ignored" in outcome.out
    records, _ = RecordFile(path).read()
    original = [json.loads(line) for line in lines]
    assert [r.key for r in records] == [line["key"] for line in original]
    assert [list(r.accuracy) for r in records] == [r["accuracy"] for r in original]


def test_another_option_is_another_run(compare: Cli, tmp_path: Path) -> None:
    arguments = (*TINY, "--methods", "vanilla", "--seeds", "0")
    compare(*arguments)
    outcome = compare(*arguments, "--lr", "0.02")
    assert "found" not in outcome.out
    assert [r["config"]["lr"] for r in records_of(tmp_path / "out")][1] == 0.02


def test_a_lost_run_is_recorded_as_lost(compare: Cli, tmp_path: Path) -> None:
    outcome = compare(*TINY, "--methods", "vanilla", "--seeds", "0", "--lr", "1e30")
    assert outcome.code == 0, outcome.err
    assert "diverged in epoch 1, step " in outcome.out
    assert "1 (1 lost)" in outcome.out
    (record,) = records_of(tmp_path / "out")
    assert record["diverged"] is True
    assert record["loss"] == [None]


@pytest.mark.parametrize(
    "option",
    [
        ("--schedule", "constant"),
        ("--optimizer", "adam"),
        ("--optimizer", "adamw"),
        ("--precision", "bf16-mixed"),
    ],
)
def test_every_option_reaches_the_training(
    compare: Cli, tmp_path: Path, option: tuple[str, str]
) -> None:
    arguments = (*TINY, "--seeds", "0", "--lr", "0.01")
    assert compare(*arguments).code == 0
    assert compare(*arguments, *option).code == 0
    before, after = records_of(tmp_path / "out")[1], records_of(tmp_path / "out")[3]
    assert after["config"][option[0].removeprefix("--")] == option[1]
    assert after["config"]["method"] == before["config"]["method"] == "tract"
    assert after["loss"] != before["loss"]


def test_no_home_folder_in_records(
    compare: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["trainact", "compare", "--out", str(out)])
    assert compare(*TINY, "--methods", "vanilla", "--seeds", "0").code == 0
    assert str(tmp_path) not in (out / "records.jsonl").read_text(encoding="utf-8")
    assert records_of(out)[0]["command"] == "trainact compare --out ~/out"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [r"x$\run$", "x$y_{$", "x[/b]", "[bold]x", ":car:", "a b;'c'", "<i>&", "100%"],
)
def test_names_are_shown_as_they_are(
    compare: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    make_folder(tmp_path / name, count=2)
    outcome = compare(
        *("--data", f"imagefolder:{name}", "--model", "mlp", "--methods", "vanilla"),
        *("--seeds", "0", "--epochs", "1", "--device", "cpu"),
    )
    assert outcome.code == 0, outcome.err
    assert f"mlp on imagefolder:{name}: sgd" in outcome.out
    assert f"on imagefolder:{name}: sgd" in (tmp_path / "out/summary.md").read_text()
    assert (tmp_path / "out" / "curves.png").exists()
    assert cli.main(["report", "out"]) == 0
    capsys.readouterr()
    page = (tmp_path / "out" / "report" / "report.html").read_text(encoding="utf-8")
    assert html.escape(f"imagefolder:{name}", quote=False) in page.replace("&#39;", "'")


def test_an_encoding_without_greek_is_no_reason_to_fail(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "trainact",
            "compare",
            *TINY,
            "--seeds",
            "0",
            "--out",
            str(tmp_path),
        ],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"tract ?=0.1" in done.stdout


def test_options_also_have_the_names_that_they_have_in_run() -> None:
    arguments = ["--method", "tract", "whitening", "--seed=3"]
    given = parse("compare", CompareOptions, arguments)
    assert (given.methods, given.seeds) == (("tract", "whitening"), (3,))
