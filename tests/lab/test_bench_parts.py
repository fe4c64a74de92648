"""The parts of `trainact bench`, each against what it should say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.cases import oracle_gradient
from tests.tolerances import ORACLE_RTOL, relative_error
from trainact.geometry import layer_geometry
from trainact.lab.bench import floor, gate
from trainact.lab.bench.cases import CASES, find_case
from trainact.lab.bench.floor import Ceilings, Floor, find_floor
from trainact.lab.bench.modes import MODE_NAMES, Mode, find_mode
from trainact.lab.bench.options import BenchOptions
from trainact.lab.bench.plan import SUITES, plan
from trainact.lab.bench.plot import save_plot
from trainact.lab.bench.profile import count_launches, peak_bytes
from trainact.lab.bench.records import ArmResult, BenchRecord, bench_file, latest
from trainact.lab.bench.summary import exponent, spread, summarise
from trainact.lab.bench.tables import (
    BRIEF_COLUMNS,
    LAYER_COLUMNS,
    STEP_COLUMNS,
    brief_rows,
    layer_rows,
    scaling_rows,
    step_rows,
)
from trainact.lab.bench.timing import choose_calls, interleave
from trainact.lab.bench.workload import LayerInput
from trainact.lab.table_text import markdown

CPU = torch.device("cpu")

LAYERS = {
    "linear": (nn.Linear(12, 5), (6, 4, 12)),
    "linear 2-D, b < n": (nn.Linear(30, 5), (7, 30)),
    "conv1d": (nn.Conv1d(2, 6, 5, stride=3, padding=2), (4, 2, 17)),
    "conv2d, groups": (nn.Conv2d(4, 6, 3, padding=1, groups=2), (3, 4, 9, 8)),
    "conv2d, dilation": (nn.Conv2d(3, 4, 3, stride=2, dilation=2), (3, 3, 11, 9)),
    "conv2d, reflect": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
                        (3, 3, 6, 7)),
    "conv3d": (nn.Conv3d(2, 4, 2, stride=2), (3, 2, 4, 6, 5)),
}  # fmt: skip


@pytest.mark.parametrize("chunk", [1, 2**28])
@pytest.mark.parametrize("name", LAYERS)
def test_truth_is_the_reference(
    name: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "CHUNK_BYTES", chunk)
    layer, shape = LAYERS[name]
    layer = layer.double()
    x = torch.randn(shape, dtype=torch.float64)
    layer.zero_grad()
    z = layer(x)
    grad_z = torch.randn_like(z)
    z.backward(grad_z)
    geometry = layer_geometry(layer)
    given = LayerInput(x, grad_z, x, geometry, layer.weight)
    assert given.matrix_shape[0] == getattr(layer, "groups", 1)
    truth = gate.find_truth(given, 0.1)
    assert relative_error(truth.plain, layer.weight.grad) < ORACLE_RTOL
    oracle = oracle_gradient(layer, x, grad_z, 0.1)
    assert relative_error(truth.tract, oracle) < ORACLE_RTOL
    assert truth.error("vanilla-again", truth.plain) == 0
    assert truth.error("trainact", truth.plain) > 0.01


def test_tolerances_grow_with_what_the_mode_allows() -> None:
    bounds = [gate.plain_tolerance(Mode(bf16=bf16), 10**4, CPU) for bf16 in (0, 1)]
    assert 1e-5 < bounds[0] < 1e-4 < bounds[1] < 0.1
    assert gate.plain_tolerance(Mode(), 10**6, CPU) > bounds[0]
    assert gate.tolerance("trainact", 0.0) == gate.FLOAT32_PROMISE
    assert gate.tolerance("unfold", 1e-3) == pytest.approx(4.1e-3)


def test_interleaving_runs_one_of_each_per_round_and_drops_what_raises() -> None:
    seen: list[str] = []

    def fail() -> None:
        seen.append("c")
        if seen.count("c") == 3:
            raise ValueError("third time")

    actions = {"a": lambda: seen.append("a"), "b": lambda: seen.append("b"), "c": fail}
    seconds, problems = interleave(actions, 20, CPU, seed=0)
    assert [sorted(seen[i : i + 3]) for i in (0, 3, 6)] == 3 * [["a", "b", "c"]]
    assert len({tuple(seen[i : i + 2]) for i in range(9, 43, 2)}) == 2
    assert problems == {"c": "ValueError: third time"}
    assert {name: len(values) for name, values in seconds.items()} == {"a": 20, "b": 20}


def test_short_actions_are_repeated() -> None:
    assert choose_calls(lambda: None, CPU) == 20


def test_peak_is_what_is_held_at_once() -> None:
    def action() -> None:
        first = torch.empty(250_000)
        del first
        second = torch.empty(500_000)
        third = torch.empty(250_000)
        del second, third

    assert peak_bytes(action, lambda: None, CPU) == 3_000_000


def test_launches_are_counted() -> None:
    x = torch.ones(3)
    once = count_launches(x.exp, CPU)
    assert count_launches(lambda: x.exp().exp(), CPU) == 2 * once > 0


def test_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    ceilings = {CPU: Ceilings(bytes_per_s=1e9, flops=1e6)}
    monkeypatch.setattr(floor, "measure_ceilings", ceilings.__getitem__)
    found = find_floor(10**6, 100, (2, 4, 9), CPU)
    assert found.read_s == pytest.approx(1e-3)
    assert found.product_s == pytest.approx(2 * 100 * 9 * 10 / 1e6)
    assert found.factor_s > 0
    assert found.seconds == found.product_s + found.factor_s
    dual = find_floor(10**6, 5, (1, 4, 9), CPU)
    assert dual.product_s == pytest.approx(9 * 5 * 6 / 1e6)


def test_spread_and_exponent() -> None:
    found = spread([5.0, 1.0, 4.0, 2.0, 3.0, 6.0])
    assert found is not None
    assert (found.p20, found.p50, found.p80) == (2.0, 3.5, 5.0)
    assert 1.0 <= found.low < found.p50 < found.high <= 6.0
    assert spread([1.0]) is None
    assert exponent([1, 2, 4], [3.0, 12.0, 48.0]) == pytest.approx(2.0)
    assert exponent([1, 2, 4], [-1.0, 0.0, 3.0]) is None


@pytest.mark.parametrize("name", MODE_NAMES)
def test_modes_have_their_names(name: str) -> None:
    assert find_mode(name).name == name
    assert find_mode(name, channels_last=True).name == f"{name}, channels_last"


def make_test_batches() -> None:
    assert find_case("deit-s-224-b16").batch_gpu == 16
    assert find_case("deit-s-224-b16", 3).batch_cpu == 16
    assert find_case("deit-s-224", 3).batch_cpu == 3
    (job,) = plan(BenchOptions(cases=("deit-s-224",)), torch.device("cuda"))
    assert (job.batch, job.rounds, job.arms[0]) == (256, 10, "vanilla")


def test_suites_name_every_case_and_what_was_promised() -> None:
    for suite in SUITES:
        jobs = plan(BenchOptions(suite=suite), CPU)
        assert {job.case.name for job in jobs} >= set(CASES)
        steps = {job.case.name: job.rounds for job in jobs if not job.layer_only}
        assert set(steps) >= {"resnet18-cifar", "vit-cifar", "resnet50-224"}
        assert {job.case.axis for job in jobs} > {"rows", "entries", "batch", "kernel"}
    assert steps["deit-b-192"] == 20


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_case_has_its_first_layer(name: str) -> None:
    case = CASES[name]
    with torch.device("meta"):
        model = case.build()
        logits = model(torch.zeros(2, *case.sample))
    assert hasattr(model.get_submodule(case.layer), "weight")
    assert logits.ndim == 2


def make_arm(name: str, step: float, layer: float, **values: Any) -> ArmResult:
    """Made-up times, each with a drift that ratios and differences should cancel."""
    drift = (0.0, 0.1, 0.3)
    defaults = {
        "error": 1e-6,
        "tolerance": 1e-5,
        "step_s": tuple(step * (1 + d) for d in drift),
        "layer_s": tuple(layer + d for d in drift),
        "step_bytes": 1000,
        "layer_bytes": 500,
        "launches": 7,
    }
    return ArmResult(name, **{**defaults, **values})


def make_bench_record(**changes: Any) -> BenchRecord:
    wrong = ArmResult("unfold", problem="WRONG: error 0.13", error=0.13, tolerance=1e-5)
    values: dict[str, Any] = {
        "case": "tiny",
        "axis": None,
        "value": 0,
        "batch": 4,
        "sample": (3, 8, 8),
        "layer": "Conv2d(...)",
        "rows": 256,
        "entries": 27,
        "mode": Mode(),
        "lam": 0.1,
        "seed": 0,
        "rounds": 3,
        "arms": (
            make_arm("vanilla", 2.0, 0.1),
            make_arm("trainact", 2.02, 0.12, step_bytes=1500, layer_bytes=5_000_500),
            ArmResult("torch-tract", problem="skipped: not installed"),
            wrong,
        ),
        "floor": Floor(0.001, 0.004, 0.001),
        "ceilings": Ceilings(1e10, 1e11),
        "device": "abacus",
        "threads": 2,
        "versions": {"trainact": "1", "torch": "2"},
        "commit": "0123456789",
        "started": "2026-01-01T00:00:00+00:00",
        "command": "trainact bench",
    }
    return BenchRecord(**{**values, **changes})


def test_summary_compares_within_rounds() -> None:
    _, ours, _, _ = summarise(make_bench_record())
    assert ours.ratio is not None
    assert ours.extra_ms is not None
    assert (ours.ratio.p20, ours.ratio.p80) == pytest.approx((1.01, 1.01))
    assert (ours.extra_ms.p20, ours.extra_ms.p80) == pytest.approx((20.0, 20.0))
    assert ours.share == pytest.approx(0.02 / 2.2)
    assert ours.floor == pytest.approx(0.02 / 0.005)
    assert (ours.step_growth, ours.layer_growth) == (500, 5_000_000)


def test_summary_without_vanilla() -> None:
    failed = ArmResult("vanilla", problem="RuntimeError: no")
    record = make_bench_record(arms=(failed, make_arm("trainact", 2.0, 0.1)))
    _, ours = summarise(record)
    assert ours.step_ms is not None
    assert (ours.ratio, ours.extra_ms, ours.share, ours.floor) == (None,) * 4


def test_record_round_trip(tmp_path: Path) -> None:
    record = make_bench_record()
    file = bench_file(tmp_path / "bench.jsonl")
    file.append(record)
    file.append(make_bench_record(mode=Mode(bf16=True)))
    records, warnings = file.read()
    assert records[0] == record
    assert not warnings
    newer = make_bench_record(rounds=9)
    assert latest([*records, newer]) == [newer, records[1]]


def test_lines_that_are_no_records_are_named(tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    line = json.loads(make_bench_record().to_line())
    bad = [{**line, "schema": 99}, {k: v for k, v in line.items() if k != "mode"}]
    path.write_text("".join(json.dumps(b) + "\n" for b in bad) + '{"sche')
    records, warnings = bench_file(path).read()
    assert records == []
    assert len(warnings) == 3
    for number, warning in enumerate(warnings, 1):
        assert warning.startswith(f"{path} line {number} ignored")


def test_tables_say_why_a_figure_is_missing() -> None:
    records = [make_bench_record()]
    steps, layers = step_rows(records), layer_rows(records)
    assert {len(row) for row in steps} == {len(STEP_COLUMNS)}
    assert {len(row) for row in layers} == {len(LAYER_COLUMNS)}
    assert steps[1][2:5] == (
        "trainact",
        "1.010 [1.010, 1.010]",
        "1.010 to 1.010",
    )
    assert [row[3] for row in steps[2:]] == ["skipped", "WRONG: error 0.13"]
    assert layers[1][4:9] == ("20.00 [20.00, 20.00]", "0.91 %", "4.0", "5.0", "7")
    brief = brief_rows(records)
    assert {len(row) for row in brief} == {len(BRIEF_COLUMNS)}
    assert brief[2][2] == "WRONG: error 0.13"
    lines = markdown(BRIEF_COLUMNS, brief, left=2)
    assert lines[1] == "| --- | --- | ---: | ---: | ---: | ---: |"
    assert {line.count("|") for line in lines} == {7}


def scaling_records() -> list[BenchRecord]:
    return [
        make_bench_record(
            case=f"rows-{value}",
            axis="rows",
            value=value,
            arms=(
                make_arm("vanilla", 1.0, 0.1, step_s=()),
                make_arm("trainact", 1.0, 0.1 + 1e-3 * value, step_s=()),
            ),
        )
        for value in (4, 1, 2)
    ]


def test_scaling_table_and_plot(tmp_path: Path) -> None:
    records = [make_bench_record(), *scaling_records()]
    assert scaling_rows(records) == [("rows", "trainact", "1: 1, 2: 2, 4: 4", "1.00")]
    save_plot(records, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_pages_are_made_from_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = pytest.importorskip(
        "benchmarks.readme", reason="the benchmarks are in the repository only"
    )
    path = tmp_path / "steps-abacus.jsonl"
    for record in (make_bench_record(), *scaling_records()):
        bench_file(path).append(record)
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    monkeypatch.setattr(readme, "STEPS", [path])
    brief = readme.steps_section()
    assert "| tiny-b4 | trainact | 1.010 [1.010, 1.010] | 20.00" in brief
    assert "abacus, 2 threads, torch 2, 3 rounds, λ = 0.1; `trainact bench`" in brief
    assert brief.endswith("Not measured on a GPU yet.")
    page = readme.performance_section()
    assert "![steps, extra time, scaling](performance-abacus.png)" in page
    assert "- tiny-b4, eager-fp32, torch-tract: skipped: not installed" in page
    assert "| rows | trainact | 1: 1, 2: 2, 4: 4 | 1.00 |" in page


def test_a_suite_needs_neither_tyro_nor_lightning() -> None:
    absent = ("tyro", "rich", "lightning", "matplotlib", "sklearn", "torchmetrics")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent!r}))\n"
        "from trainact.lab.bench.__main__ import run; sys.exit(run(['none']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr[:6]) == (2, "usage:")
