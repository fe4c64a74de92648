"""XᵀX from shifts of the image, and the choice between the ways to it.

Claims: shifts along any dimension give the tiles' sums, for drawn geometries and
wherever the batch is cut; float32 sums of millions of positive entries keep float32's
precision; nothing larger than a tile is copied; the cost model loses next to nothing
against the best way that was measured; who is close to a border is counted right.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainact import gram, lines, products
from trainact.cost import cheapest_dim, shifts_cost, tiles_cost
from trainact.geometry import Geometry, make_geometry
from trainact.shifts import shifted_products

from .cases import oracle_rows
from .test_gram import drawn
from .tolerances import GRAM_EPS, ORACLE_RTOL, relative_error

RECORD = Path(__file__).parents[1] / "records" / "benchmarks" / "gram-cpu.jsonl"


@pytest.mark.parametrize("tile_bytes", [1, 400, 4 * 2**20])
@pytest.mark.parametrize("kind", ["conv1d", "conv2d", "conv3d"])
def test_shifts_are_the_patches_second_moment(kind, tile_bytes, monkeypatch) -> None:
    monkeypatch.setattr(products, "TILE_BYTES", tile_bytes)
    for case, layer, images, geometry in drawn(kind, 30, seed=5):
        rows = oracle_rows(layer, images)
        truth = np.einsum("gnp,gnq->gpq", rows, rows)
        for dim in range(geometry.num_spatial):
            value = shifted_products(images, geometry, dim)
            assert relative_error(value, truth) < ORACLE_RTOL, (case, dim)


@st.composite
def long_signals(draw) -> tuple[Geometry, int]:
    """Kernels of up to eleven positions with any stride and dilation."""
    geometry = make_geometry(
        draw(st.sampled_from([2, 6])),
        draw(st.integers(1, 11)),
        draw(st.integers(1, 7)),
        draw(st.integers(0, 9)),
        draw(st.integers(1, 6)),
        draw(st.sampled_from([1, 2])),
        "zeros",
        num_spatial=1,
    )
    return geometry, draw(st.integers(geometry.extent[0], 90))


@given(long_signals())
@settings(deadline=None, max_examples=150)
def test_strides_and_dilations_of_one_dimension(drawn_case) -> None:
    geometry, length = drawn_case
    x = torch.randn(2, geometry.channels, length, dtype=torch.float64)
    truth = gram.tiled_products(x, geometry)
    assert relative_error(shifted_products(x, geometry, 0), truth) < ORACLE_RTOL


def test_only_the_borders_count_when_the_output_is_one_line() -> None:
    geometry = make_geometry(1, 3, 1, 1, 1, 1, "zeros", num_spatial=1)
    x = torch.tensor([[[5.0]]], dtype=torch.float64)
    expected = torch.zeros(1, 3, 3, dtype=torch.float64)
    expected[0, 1, 1] = 25
    assert torch.equal(shifted_products(x, geometry, 0), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stride", [1, 2])
def test_many_positive_rows_cost_no_accuracy(dtype: torch.dtype, stride: int) -> None:
    geometry = make_geometry(3, 5, stride, 2, 1, 1, "zeros", num_spatial=2)
    x = torch.rand(6, 3, 160, 160).to(dtype)
    truth = gram.tiled_products(x.double(), geometry)
    error = relative_error(shifted_products(x, geometry, 0), truth)
    assert error < GRAM_EPS * torch.finfo(torch.float32).eps / 4


def test_empty_batch() -> None:
    geometry = make_geometry(3, 3, 1, 1, 1, 1, "zeros", num_spatial=2)
    value = shifted_products(torch.zeros(0, 3, 8, 8), geometry, 0)
    assert torch.equal(value, torch.zeros(1, 27, 27, dtype=torch.float64))


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    geometry = make_geometry(1, 3, 1, 1, 1, 1, "zeros", num_spatial=2)
    x = torch.ones(1, 1, 8, 8)
    x[0, 0, 4, 4] = bad
    value = shifted_products(x, geometry, 0)
    assert not value.diagonal(dim1=1, dim2=2).isfinite().any()


@pytest.mark.parametrize(
    ("shape", "spatial"),
    [((16, 3, 224, 224), 2), ((1, 3, 600, 800), 2), ((1, 1, 40, 64, 64), 3)],
)
def test_pieces_respect_the_bound(shape: tuple[int, ...], spatial: int) -> None:
    geometry = make_geometry(shape[1], 7, 2, 3, 1, 1, "zeros", num_spatial=spatial)
    layout = lines.make_layout(geometry, 0)
    parts = list(lines.pieces(torch.zeros(shape), geometry, layout))
    sizes = [4 * part.bands.numel() for part in parts]
    assert len(sizes) > 1
    # What bands share comes on top.
    assert max(sizes) <= 1.2 * products.TILE_BYTES


def test_a_long_signal_is_cut_into_bands() -> None:
    geometry = make_geometry(1, 10, 5, 0, 1, 1, "zeros", num_spatial=1)
    layout = lines.make_layout(geometry, 0)
    parts = list(lines.pieces(torch.zeros(1, 1, 3_000_000), geometry, layout))
    assert len(parts) > 1
    assert [part.has_first for part in parts] == [True] + [False] * (len(parts) - 1)
    assert [part.has_last for part in parts] == [False] * (len(parts) - 1) + [True]
    outputs = sum(
        part.bands.shape[1] * (part.bands.shape[4] - layout.num_border)
        for part in parts
    )
    assert outputs == geometry.output_size([3_000_000])[0]


def test_the_cheaper_way_is_taken(monkeypatch) -> None:
    taken = []
    monkeypatch.setattr(
        gram, "shifted_products", lambda *_: taken.append("shifts") or torch.zeros(1)
    )
    monkeypatch.setattr(
        gram, "tiled_products", lambda *_: taken.append("tiles") or torch.zeros(1)
    )
    overlapping = make_geometry(3, 7, 2, 3, 1, 1, "zeros", num_spatial=2)
    patches = make_geometry(3, 16, 16, 0, 1, 1, "zeros", num_spatial=2)
    x = torch.zeros(4, 3, 64, 64)
    for geometry in (overlapping, patches):
        gram.patch_products(x, geometry)
    gram.patch_products(x[:0], overlapping)
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
