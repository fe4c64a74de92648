"""`--json`: alone on standard output, with the keys that docs/cli.md lists."""

from __future__ import annotations

import io
import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.conftest import TINY
from tests.lab.made_up import write_runs
from tests.lab.test_report_page import RECIPES, all_runs
from trainact import cli
from trainact.lab.json_output import json_alone, json_text
from trainact.lab.reporting.main import main as report
from trainact.lab.reporting.options import ReportOptions

PAGE = Path(__file__).parents[2] / "docs/cli.md"


Keys = tuple[str, ...]  # keys, and [] for each member of a list


def documented(command: str) -> list[Keys]:
    """Keys of a command in the page, with * for what stands in capitals."""
    page = PAGE.read_text(encoding="utf-8").partition("\n## JSON")[2]
    section = page.partition(f"\n### {command}\n")[2].partition("\n### ")[0]
    keys = re.findall(r"^\| `([^`]+)` \|", section, re.M)
    return [
        tuple("*" if part.isupper() else part for part in re.findall(r"\w+|\[\]", key))
        for key in keys
    ]


def paths(values: Any, path: Keys = ()) -> Iterator[Keys]:
    """Every way from the whole to a part of some JSON."""
    yield path
    if isinstance(values, dict):
        for key, value in values.items():
            yield from paths(value, (*path, key))
    if isinstance(values, list):
        for value in values:
            yield from paths(value, (*path, "[]"))


def agree(found: Keys, listed: Keys) -> bool:
    """Whether one of them leads to the other."""
    pairs = zip(found, listed, strict=False)
    return all(listed_key in ("*", key) for key, listed_key in pairs)


def check_keys(command: str, values: Any) -> None:
    """All that is documented is there, and what is there is documented, or below."""
    listed, found = documented(command), set(paths(values))
    assert listed
    for want in listed:
        assert any(agree(has, want) for has in found if len(has) == len(want)), want
    for has in found:
        assert any(agree(has, want) for want in listed), has


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[Any, str, str]:
    """The JSON of a command, its text, and what went to standard error."""
    assert cli.main([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    return json.loads(captured.out), captured.out, captured.err


def test_inspect(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("inspect", "small-cnn", "--data", "digits", "--images", "40")
    values, _, errors = run(capsys, *arguments)
    check_keys("inspect", values)
    assert errors == ""
    layer = values["layers"]["conv1"]
    assert len(layer["eigenvalues"]) == layer["entries"] == 9


def test_what_a_model_of_ones_own_prints_is_not_in_the_json(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "model_that_prints.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    print('hello')\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(48, 2))\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = ("inspect", "model_that_prints:build", "--image-size", "4")
    values, _, errors = run(capsys, *arguments)
    assert values["layers"]["1"]["entries"] == 48
    assert errors == "hello\n"


def test_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    values, _, errors = run(capsys, "recipes")
    check_keys("recipes", values)
    assert errors == ""
    one, _, _ = run(capsys, "recipes", "fig6")
    assert one["recipes"] == [r for r in values["recipes"] if r["name"] == "fig6"]


def test_compare(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ("compare", *TINY, "--seeds", "0", "1", "--out", str(tmp_path))
    values, text, errors = run(capsys, *arguments)
    check_keys("compare", values)
    assert text == (tmp_path / "summary.json").read_text(encoding="utf-8")
    assert "[4/4] mlp, tract λ=0.1, seed 1: accuracy" in errors
    again, _, errors = run(capsys, *arguments)
    assert again == values
    assert "4 of 4 runs found" in errors


def test_report(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = write_runs(tmp_path / "runs", all_runs())
    with (folder / "records.jsonl").open("a", encoding="utf-8") as file:
        file.write("{}\n")
    assert report(ReportOptions((folder,), json=True), lambda: RECIPES) == 0
    captured = capsys.readouterr()
    values = json.loads(captured.out)
    check_keys("report", values)
    written = (folder / "report" / "report.json").read_text(encoding="utf-8")
    assert captured.out == written
    first, last = captured.err.splitlines()
    assert first == f"warning: {values['warnings'][0]}"
    assert last.endswith("report.json and the PNGs beside it")


def test_bench(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "bench.jsonl"
    model = ("--model", "mlp", "--image-size", "8", "--batch-size", "4")
    values, _, errors = run(
        capsys, "bench", *model, "--rounds", "2", "--device", "cpu", "--out", str(out)
    )
    check_keys("bench", values)
    assert errors.endswith(f"1 record added to {out}\n")
    spreads = [arm["step_ms"] for arm in values["results"][0]["arms"]]
    assert all(set(s) == {"p20", "p50", "p80", "low", "high"} for s in spreads if s)


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "resnet19"),
        ("recipes", "fig99"),
        ("compare", "--data", "digit"),
        ("report", "nowhere"),
        ("bench", "--cases", "nothing"),
    ],
)
def test_after_an_error_standard_output_is_empty(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*arguments, "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("trainact: ")


def test_a_number_that_is_not_finite_is_null() -> None:
    values = {"a": [1.5, math.nan, (math.inf, {"b": -math.inf})], "c": "NaN", "d": 2}
    expected = {"a": [1.5, None, [None, {"b": None}]], "c": "NaN", "d": 2}
    assert json.loads(json_text(values)) == expected


def test_letters_that_the_output_does_not_have_are_escaped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="ascii", errors="replace")
    monkeypatch.setattr("sys.stdout", stream)
    with json_alone(True) as put:
        put(json_text({"λ": "± 𝛬"}))
    stream.flush()
    assert json.loads(written.getvalue().decode("ascii")) == {"λ": "± 𝛬"}


def test_without_json_nothing_is_put_aside(capsys: pytest.CaptureFixture[str]) -> None:
    with json_alone(False) as put:
        sys.stdout.write("words\n")
        put("dropped")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("words\n", "")
