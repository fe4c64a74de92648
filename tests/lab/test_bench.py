"""`trainact bench`: what it measures, what it refuses to print, what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import trainact
from trainact import cli
from trainact.lab.bench import __main__ as entry
from trainact.lab.bench import floor, plan
from trainact.lab.bench.arms import ARMS
from trainact.lab.bench.cases import CASES, Case
from trainact.lab.bench.options import USUAL_ARMS
from trainact.lab.bench.records import BenchRecord, bench_file

from .conftest import Outcome

Bench = Callable[..., Outcome]


class TinyNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x).relu().mean((2, 3)))


class Broken(TinyNet):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError(f"no forward today of {len(x)}")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small cases, and ceilings that are measured in no time."""
    torch.use_deterministic_algorithms(False)
    monkeypatch.setitem(CASES, "tiny", Case("tiny", TinyNet, "stem", (3, 8, 8), 4, 4))
    broken = Case("broken", Broken, "stem", (3, 8, 8), 4, 4)
    monkeypatch.setitem(CASES, "broken", broken)
    monkeypatch.setitem(floor.COPY_BYTES, "cpu", 2**16)
    monkeypatch.setitem(floor.MATMUL_SIZE, "cpu", 64)
    floor.measure_ceilings.cache_clear()


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Bench:
    """`trainact bench` through its entry point, with --out in a fresh folder."""

    def run(*arguments: str) -> Outcome:
        out = ("--out", str(tmp_path / "new" / "bench.jsonl"), "--device", "cpu")
        code = cli.main(["bench", *arguments, *out])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


def read(tmp_path: Path) -> list[BenchRecord]:
    records, warnings = bench_file(tmp_path / "new" / "bench.jsonl").read()
    assert not warnings
    return records


def arms_of(outcome: Outcome) -> dict[str, dict[str, Any]]:
    (result,) = json.loads(outcome.out)["results"]
    return {arm["arm"]: arm for arm in result["arms"]}


def test_everything_about_one_case(bench: Bench, tmp_path: Path) -> None:
    pytest.importorskip("torch_tract", reason="the peer is not installed")
    outcome = bench("--cases", "tiny", "--rounds", "3", "--json")
    assert outcome.code == 0, outcome.err
    arms = arms_of(outcome)
    assert list(arms) == list(USUAL_ARMS)
    for arm in arms.values():
        assert arm["problem"] is None
        assert arm["error"] < 1e-5
        assert min(arm["step_ms"]["p20"], arm["layer_ms"]["p20"]) > 0
        assert arm["ratio"]["low"] <= arm["ratio"]["p50"] <= arm["ratio"]["high"]
        assert arm["launches"] > 0
    assert arms["vanilla"]["extra_ms"] is None
    assert arms["vanilla-again"]["step_growth"] == 0
    assert arms["vanilla-again"]["launches"] == arms["vanilla"]["launches"]
    assert arms["trainact"]["launches"] > arms["vanilla"]["launches"]
    (record,) = read(tmp_path)
    assert (record.rows, record.entries, record.rounds) == (256, 27, 3)
    assert record.threads == torch.get_num_threads()
    assert record.versions["trainact"] == trainact.__version__
    assert len(record.arms[0].step_s) == len(record.arms[0].layer_s) == 3


def test_unfolding_takes_the_memory_of_the_rows(bench: Bench) -> None:
    case = ("--cases", "tiny-b64", "--rounds", "2", "--layer-only", "--json")
    arms = arms_of(bench(*case, "--arms", "unfold"))
    rows_bytes = 4 * 27 * 64 * 8 * 8
    assert arms["unfold"]["layer_growth"] >= rows_bytes
    assert arms["unfold"]["step_ms"] is None


def test_tables(bench: Bench) -> None:
    outcome = bench("--cases", "tiny-b2", "--rounds", "2", "--arms", "trainact")
    assert outcome.code == 0
    assert "tiny-b2  eager-fp32  trainact" in outcome.out
    assert "ratio to vanilla" in outcome.out
    assert "x floor" in outcome.out
    assert "torch-tract" not in outcome.out


def wrong(model: nn.Module, layer: str, lam: float) -> nn.Module:
    return trainact.apply(model, lam=1.2 * lam, layer=layer)


def test_a_wrong_arm_gets_no_speed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(ARMS, "unfold", wrong)
    outcome = bench("--cases", "tiny", "--rounds", "2", "--arms", "trainact", "unfold")
    assert outcome.code == 0  # another's mistake is information
    assert "WRONG: error 0.0" in outcome.out
    (record,) = read(tmp_path)
    bad = record.arms[-1]
    assert bad.arm == "unfold"
    assert bad.error > bad.tolerance
    assert (bad.step_s, bad.layer_s, bad.step_bytes, bad.launches) == (
        (),
        (),
        None,
        None,
    )
    assert record.arms[1].step_s


@pytest.mark.parametrize("arm", ["vanilla", "trainact"])
def test_our_own_mistake_fails_the_command(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, arm: str
) -> None:
    monkeypatch.setitem(ARMS, arm, wrong)
    arms = ("--arms", "trainact", "unfold")
    outcome = bench("--cases", "tiny", "--rounds", "2", *arms)
    assert outcome.code == 1
    assert f"tiny-b4, eager-fp32, {arm}: WRONG: error" in outcome.out


def test_nan_is_wrong(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def poisoned(model: nn.Module, layer: str, lam: float) -> nn.Module:
        del lam
        weight = model.get_submodule(layer).weight
        weight.register_hook(lambda grad: grad * torch.nan)
        return model

    monkeypatch.setitem(ARMS, "unfold", poisoned)
    outcome = bench("--cases", "tiny", "--rounds", "2", "--arms", "unfold")
    assert "WRONG: error nan" in outcome.out


def test_an_arm_that_raises_is_reported_and_the_rest_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[int] = []

    def refuse(*_: Any) -> None:
        calls.append(1)
        if len(calls) > 4:
            raise RuntimeError("four times are enough\nand more")

    def late(model: nn.Module, layer: str, lam: float) -> nn.Module:
        trained = trainact.apply(model, lam=lam, layer=layer)
        trained.get_submodule(layer).register_forward_hook(refuse)
        return trained

    monkeypatch.setitem(ARMS, "unfold", late)
    arms = ("--arms", "trainact", "unfold", "--rounds", "3")
    outcome = bench("--cases", "tiny", *arms)
    assert outcome.code == 0
    note = "tiny-b4, eager-fp32, unfold: RuntimeError: four times are enough"
    assert note in outcome.out
    (record,) = read(tmp_path)
    assert record.arms[2].layer_s == ()
    assert len(record.arms[1].step_s) == 3


def test_an_arm_that_cannot_be_built(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(model: nn.Module, layer: str, lam: float) -> nn.Module:
        raise AssertionError(f"not with {layer} of {type(model).__name__} at {lam}")

    monkeypatch.setitem(ARMS, "unfold", refuse)
    outcome = bench("--cases", "tiny", "--rounds", "2", "--arms", "unfold")
    assert outcome.code == 0
    assert "unfold: AssertionError: not with stem of TinyNet at 0.1" in outcome.out


def test_without_the_peer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch_tract", None)
    outcome = bench("--cases", "tiny", "--rounds", "2", "--arms", "torch-tract")
    assert outcome.code == 0
    assert "torch-tract: skipped: the package torch-tract is not" in outcome.out


def test_a_case_that_fails_does_not_end_the_run(bench: Bench, tmp_path: Path) -> None:
    outcome = bench("--cases", "broken", "tiny", "--rounds", "2", "--arms", "trainact")
    assert outcome.code == 1
    assert "broken-b4, eager-fp32 cannot be run: no forward today of 4" in outcome.out
    assert [record.case for record in read(tmp_path)] == ["tiny"]


def test_minutes(bench: Bench, tmp_path: Path) -> None:
    few = ("--rounds", "2", "--arms", "trainact", "--minutes", "1e-9")
    outcome = bench("--cases", "tiny-b2", "tiny-b3", *few)
    assert outcome.code == 0
    assert "not measured: tiny-b2, eager-fp32; tiny-b3, eager-fp32" in outcome.out
    assert read(tmp_path) == []


def test_bf16_and_channels_last(bench: Bench) -> None:
    outcome = bench(
        *("--cases", "tiny", "--rounds", "2", "--arms", "trainact", "unfold"),
        *("--modes", "eager-bf16", "--channels-last", "--json"),
    )
    assert outcome.code == 0
    assert "eager-bf16, channels_last: whole steps" in outcome.err
    arms = arms_of(outcome)
    assert 1e-4 < arms["trainact"]["error"] < 0.02
    assert arms["unfold"]["problem"] is None


@pytest.mark.slow
def test_compiled(bench: Bench) -> None:
    arms = ("--arms", "trainact", "--modes", "compiled-fp32", "--json")
    outcome = bench("--cases", "tiny", "--rounds", "2", "--layer-only", *arms)
    assert outcome.code == 0, outcome.err
    assert arms_of(outcome)["trainact"]["error"] < 1e-5


def test_a_model_of_ones_own(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_bench_model.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(48, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    outcome = bench(
        *("--model", "my_bench_model:build", "--image-size", "4"),
        *("--batch-size", "7", "--rounds", "2", "--arms", "trainact"),
    )
    assert outcome.code == 0, outcome.out + outcome.err
    (record,) = read(tmp_path)
    # Fewer rows than entries: the dual form, also of the floor.
    assert (record.batch, record.rows, record.entries) == (7, 7, 48)
    assert record.layer == "Linear(in_features=48, out_features=10, bias=True)"


class Same(nn.Conv2d):
    """Adds its border itself, more on one side."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(input, (0, 1, 0, 1)))


class Standardised(nn.Conv2d):
    """Computes with another weight than its own."""

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight - self.weight.mean(), self.bias)


@pytest.mark.parametrize("stem", [Same, Standardised])
def test_subclasses(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stem: type[nn.Conv2d]
) -> None:
    def build() -> nn.Module:
        return nn.Sequential(stem(3, 4, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    monkeypatch.setitem(CASES, "odd", Case("odd", build, "0", (3, 8, 8), 4, 4))
    outcome = bench("--cases", "odd", "--rounds", "2", "--arms", "trainact")
    if stem is Same:
        assert outcome.code == 0, outcome.out
        (record,) = read(tmp_path)
        assert (record.rows, record.entries) == (256, 12)
    else:
        assert outcome.code == 1
        assert "a Standardised, does not multiply its input by its" in outcome.out


def test_video_in_channels_last(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Conv3d(3, 4, 2), nn.AdaptiveAvgPool3d(1), nn.Flatten())

    monkeypatch.setitem(CASES, "video", Case("video", build, "0", (3, 3, 5, 5), 2, 2))
    arms = ("--arms", "trainact", "unfold", "--channels-last")
    assert bench("--cases", "video", "--rounds", "2", *arms).code == 0
    (record,) = read(tmp_path)
    assert (record.mode.channels_last, record.rows) == (True, 64)
    assert not any(arm.problem for arm in record.arms)


def test_scaling(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = plan._SCALING.cases
    few = tuple(case for case in points if case.value <= 1024 and case.axis == "rows")
    batch = tuple(case for case in points if case.name in ("batch-1", "batch-2"))
    part = plan._SCALING
    monkeypatch.setattr(plan, "_SCALING", plan.replace(part, cases=few + batch))
    outcome = bench("--scaling", "--rounds", "2", "--arms", "trainact")
    assert outcome.code == 0
    table = " ".join(outcome.out.rpartition("exponent")[2].split())
    assert "batch trainact 1: " in table
    assert ", 2: " in table
    assert [record.axis for record in read(tmp_path)] == ["rows", "batch", "batch"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cases", "resnet51-224"], "did you mean 'resnet50-224'"),
        (["--cases", "tiny-b0"], "case 'tiny-b0' is not known"),
        (["--cases", "tiny", "--arms", "trainakt"], "did you mean 'trainact'"),
        (["--cases", "tiny", "--modes", "eager-fp8"], "did you mean 'eager-fp32'"),
        (["--cases", "tiny", "--rounds", "1"], "a spread needs at least 2"),
        (["--cases", "tiny", "--lam", "0"], "--lam 0.0: give a finite number"),
        (["--cases", "tiny", "--scaling"], "--cases and --scaling say different"),
        (["--cases", "tiny", "--layer", "stem"], "--layer and --image-size are for"),
        (["--suite", "cpu", "--batch-size", "3"], "--batch-size is for cases"),
        (["--suite", "cpu", "--modes", "eager-bf16"], "--modes is not for --suite"),
        (["--model", "resnet19"], "did you mean"),
        (["--model", "mlp", "--layer", "conv9"], "no layer 'conv9'"),
    ],
)
def test_one_line_says_what_is_wrong(
    arguments: list[str], message: str, bench: Bench
) -> None:
    outcome = bench(*arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_file_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "bench.jsonl"
    assert cli.main(["bench", "--cases", "tiny", "--out", str(out)]) == 2
    assert "give another folder with --out" in capsys.readouterr().err


def test_suite_without_tyro(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = plan.Part((CASES["tiny"],), rounds=2, arms=("vanilla", "trainact"))
    monkeypatch.setitem(plan.SUITES, "cpu", (part,))
    assert entry.run(["cpu", str(tmp_path / "new" / "bench.jsonl"), "5"]) == 0
    assert [record.case for record in read(tmp_path)] == ["tiny"]
    for bad in (["cpu"], ["zpu", "x"], ["cpu", "x", "soon"]):
        assert entry.run(bad) == 2
        assert "usage: python -m trainact.lab.bench" in capsys.readouterr().err
