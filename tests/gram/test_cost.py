"""The choice between the ways to XᵀX: where shifts are possible, and what they cost.

Claim: the cost model loses next to nothing against the best way that was measured.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from trainact.geometry import Geometry, make_geometry
from trainact.gram import route
from trainact.gram.cost import can_shift, cheapest_dim, shifts_cost, tiles_cost

RECORD = Path(__file__).parents[2] / "records" / "benchmarks" / "gram-cpu.jsonl"


@pytest.mark.parametrize(
    ("change", "possible"),
    [
        ({}, True),
        ({"kernel_size": (1, 3)}, False),  # nothing to shift
        ({"dilation": (2, 1)}, True),
        ({"dilation": (12, 1)}, False),  # a border much larger than A
        ({"kernel_size": (23, 3)}, False),  # fewer outputs than a kernel reaches
    ],
)
def test_where_shifts_are_possible(change: dict[str, tuple], possible: bool) -> None:
    geometry = make_geometry(3, 3, 1, 0, 1, 1, "zeros", num_spatial=2)
    geometry = replace(geometry, **change)
    assert can_shift(geometry, geometry.output_size((40, 40)), 0) == possible


def test_the_cheaper_way_is_taken(monkeypatch) -> None:
    taken = []
    monkeypatch.setattr(
        route, "shifted_gram", lambda *_: taken.append("shifts") or torch.zeros(1)
    )
    monkeypatch.setattr(
        route, "tiled_gram", lambda *_: taken.append("tiles") or torch.zeros(1)
    )
    overlapping = make_geometry(3, 7, 2, 3, 1, 1, "zeros", num_spatial=2)
    patches = make_geometry(3, 16, 16, 0, 1, 1, "zeros", num_spatial=2)
    x = torch.zeros(4, 3, 64, 64)
    for geometry in (overlapping, patches):
        route.compute_gram(x, geometry)
    route.compute_gram(x[:0], overlapping)
    assert taken == ["shifts", "tiles", "tiles"]


def test_devices_where_shifts_were_not_measured_take_tiles() -> None:
    geometry = make_geometry(3, 7, 2, 3, 1, 1, "zeros", num_spatial=2)
    assert cheapest_dim(geometry, (16, 3, 224, 224), "cpu") is not None
    assert cheapest_dim(geometry, (16, 3, 224, 224), "cuda") is None


def test_costs_grow_with_the_batch() -> None:
    geometry = make_geometry(3, 7, 2, 3, 1, 1, "zeros", num_spatial=2)
    for cost in (tiles_cost, lambda *a: shifts_cost(*a, 0)):
        few, many = cost(geometry, 8, (112, 112)), cost(geometry, 16, (112, 112))
        assert 1.5 < many / few <= 2


def test_the_choice_loses_little_against_measurement() -> None:
    if not RECORD.exists():
        pytest.skip("no record of measurements beside the tests")
    losses = {}
    for text in RECORD.read_text().splitlines():
        record = json.loads(text)
        geometry = Geometry(**{
            name: tuple(map(tuple, value)) if name == "padding" else _frozen(value)
            for name, value in record["geometry"].items()
        })  # fmt: skip
        dim = cheapest_dim(geometry, tuple(record["shape"]), "cpu")
        taken = record["ms"]["tiles" if dim is None else f"dim {dim}"]
        losses[record["setting"]] = taken / min(record["ms"].values())
    assert len(losses) >= 30
    assert max(losses.values()) < 1.35, losses
    assert np.median(list(losses.values())) < 1.05


def _frozen(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value
