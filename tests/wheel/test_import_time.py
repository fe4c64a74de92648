"""How import times are summarised."""

from __future__ import annotations

import pytest

from benchmarks.import_time import CASES, measure, record


def test_record_has_medians_of_both_clocks() -> None:
    torch = [1.0, 0.5]
    rounds = [[torch, [0.02, 0.01]], [torch, [0.04, 0.03]], [torch, [0.09, 0.02]]]
    fields = record("trainact", rounds)
    assert fields["torch_wall_ms"]["p50"] == 1000
    assert fields["added_wall_ms"] == {
        "min": 20,
        "p25": 30,
        "p50": 40,
        "p75": 65,
        "max": 90,
    }
    assert fields["added_cpu_ms"]["p50"] == 20
    assert fields["rounds"] == 3


def test_every_round_starts_every_case(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def start(statement: str, bytecode: str) -> list[list[float]]:
        del bytecode
        started.append(statement)
        return [[1.0, 1.0], [float(len(started)), 0.0]]

    monkeypatch.setattr("benchmarks.import_time.start", start)
    spans = measure(rounds=4)
    assert set(spans) == set(CASES)
    assert {len(rounds) for rounds in spans.values()} == {4}
    rounds = [started[i : i + 3] for i in range(0, len(started), 3)]
    assert len(rounds) == 5  # the first one is left out
    assert all(set(each) == set(CASES.values()) for each in rounds)
    kept = [spans[1][0] for case in spans.values() for spans in case]
    assert min(kept) == 4
    assert len({tuple(each) for each in rounds}) > 1  # in random order
