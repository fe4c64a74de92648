"""`docs/why-it-works.md` is what the records say: its tables and its words."""

from __future__ import annotations

from statistics import mean
from typing import Any

import pytest

from benchmarks import readme
from benchmarks.sections import load
from benchmarks.why_tables import LAM, RECORDS, ends, grouped, why_section

EXACT = 1e-9
WAYS = ("plain", "tract")
RECORDED = load(RECORDS)
IMAGES_TO_PATCHES = ("small-vit", "small-cnn")


def test_page() -> None:
    assert readme.why_page() == readme.WHY.read_text()
    assert why_section([]) == []


def of(measure: str, **fields: Any) -> list[dict[str, Any]]:
    some = [
        record
        for record in RECORDED
        if record["measure"] == measure
        and all(record[name] == value for name, value in fields.items())
    ]
    assert some
    return some


def test_claims_on_proposals() -> None:
    for record in of("proposal", layer="words, each once"):
        assert record["error"]["plain"] < EXACT
    for record in of("proposal", layer="words"):
        assert 0.5 < record["error"]["best"] < record["error"]["plain"]
    for record in of("proposal", layer="mlp"):
        assert record["error"]["tract"] < 0.1 < 0.9 < record["error"]["plain"]
        assert record["own_variation"]["tract"] < 0.1 * record["own_variation"]["plain"]
    for layer in IMAGES_TO_PATCHES:
        for record in of("proposal", layer=layer):
            assert record["error"]["best"] > 0.9
            chance = (record["entries"] / record["rows"]) ** 0.5
            assert chance < record["cosine"]["best"] < 10 * chance
            to_best = record["cosine_to_best"]
            assert to_best["tract"] > 0.6 > 0.5 > to_best["plain"]
            assert record["own_variation"]["tract"] > record["own_variation"]["plain"]


def test_claims_on_spectra() -> None:
    for record in of("spectrum"):
        values = record["eigenvalues"]
        assert values[0] > 0.4 * sum(values)
        assert values[0] > 1e4 * values[-1]
        assert sum(value > LAM for value in values) < 0.5 * len(values)


def test_claims_on_shares() -> None:
    last = max(record["epochs"] for record in of("shares"))

    def triple(layer: str, given: str, by: str, series: str) -> tuple[float, ...]:
        return ends(of("shares", layer=layer, input=given, by=by, epochs=last), series)

    for layer in IMAGES_TO_PATCHES:
        for series in ("plain", "plain alone"):
            low, middle, high = triple(layer, "data", "brightness", series)
            assert min(low, high) > 1.2 * middle
            low, middle, high = triple(layer, "0-1", "brightness", series)
            assert low < middle < high
        for given, off in (("data", 0.06), ("0-1", 0.2)):
            level = triple(layer, given, "brightness", "tract alone")
            assert max(abs(part - 1) for part in level) < off
            low, _, high = triple(layer, given, "contrast", "tract alone")
            assert low < high
            assert low < triple(layer, given, "contrast", "plain alone")[0]
        asked = triple(layer, "data", "brightness", "gradient")
        left = triple(layer, "data", "brightness", "tract")
        assert left == pytest.approx(asked, abs=0.1)
    low, middle, high = triple("small-vit", "data", "brightness", "gradient")
    assert max(low, high) < 0.8 * middle
    low, _, high = triple("small-cnn", "data", "contrast", "plain")
    assert low < high
    assert triple("small-cnn", "data", "contrast", "tract")[0] < low
    for series in ("plain", "tract", "gradient"):
        low, _, high = triple("small-vit", "data", "contrast", series)
        assert high < low
    for members in grouped(of("shares"), "layer", "input", "epochs").values():
        spread = {way: mean(m["variation"][way] for m in members) for way in WAYS}
        assert spread["tract"] > 0.8 * spread["plain"]


def test_claims_on_filters() -> None:
    vanilla, faster, tract = grouped(of("filters"), "method").values()
    for slow, fast, ours in zip(vanilla, faster, tract, strict=True):
        assert slow["method"] == "vanilla"
        assert ours["method"] == "tract"
        assert ours["accuracy"][-1] > max(slow["accuracy"][-1], fast["accuracy"][-1])
        assert fast["moved"] > ours["moved"] > slow["moved"]
        assert sum(ours["energy"][:10]) < 0.1 < 0.7 < sum(slow["energy"][:10])
        assert sum(fast["energy"][:10]) > 0.7
        near = slice(ours["above_lam"] // 2, 2 * ours["above_lam"])
        assert sum(ours["energy"][near]) > 0.5
