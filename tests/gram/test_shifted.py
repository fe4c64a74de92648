"""XᵀX from shifts of the image, and the choice between the ways to it.

Claims: shifts along any dimension give the tiles' sums, for drawn geometries and
wherever the batch is cut; float32 sums of millions of positive entries keep float32's
precision, also beside a much brighter border; no tensor larger than a tile is made; the
cost model loses next to nothing against the best way that was measured.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

import trainact
from tests.cases import oracle_rows
from tests.drawing import examples
from tests.gram.test_tiled import drawn
from tests.tolerances import GRAM_EPS, ORACLE_RTOL, relative_error
from trainact.geometry import Geometry, make_geometry
from trainact.gram import matmul, route, shifted
from trainact.gram.cost import can_shift, cheapest_dim, shifts_cost, tiles_cost
from trainact.gram.shifted import shifted_gram
from trainact.gram.tiled import tiled_gram

RECORD = Path(__file__).parents[2] / "records" / "benchmarks" / "gram-cpu.jsonl"


@pytest.mark.parametrize("tile_bytes", [1, 400, 4 * 2**20])
@pytest.mark.parametrize("kind", ["conv1d", "conv2d", "conv3d"])
def test_shifts_are_the_patches_second_moment(kind, tile_bytes, monkeypatch) -> None:
    monkeypatch.setattr(matmul, "TILE_BYTES", tile_bytes)
    seen = 0
    for case, layer, images, geometry in drawn(kind, 30, seed=5):
        rows = oracle_rows(layer, images)
        truth = np.einsum("gnp,gnq->gpq", rows, rows)
        outputs = geometry.output_size(images.shape[2:])
        for dim in range(geometry.num_spatial):
            if shifted.make_layout(geometry, dim).num_border > outputs[dim]:
                continue
            seen += 1
            value = shifted_gram(images, geometry, dim)
            assert relative_error(value, truth) < ORACLE_RTOL, (case, dim)
    assert seen >= 20


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
    # As many outputs as the kernel reaches further strides.
    shortest = geometry.extent[0] + geometry.stride[0] * (
        shifted.make_layout(geometry, 0).num_border
    )
    return geometry, draw(st.integers(shortest, shortest + 60))


@given(long_signals())
@examples(150)
def test_strides_and_dilations_of_one_dimension(drawn_case) -> None:
    geometry, length = drawn_case
    x = torch.randn(2, geometry.channels, length, dtype=torch.float64)
    truth = tiled_gram(x, geometry)
    assert relative_error(shifted_gram(x, geometry, 0), truth) < ORACLE_RTOL


def test_only_the_borders_count_where_no_line_is_common() -> None:
    geometry = make_geometry(1, 3, 1, 1, 1, 1, "zeros", num_spatial=1)
    x = torch.tensor([[[5.0, 7.0]]], dtype=torch.float64)
    expected = torch.tensor([[25.0, 35, 0], [35, 74, 35], [0, 35, 49]])
    assert torch.equal(shifted_gram(x, geometry, 0)[0], expected.double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stride", [1, 2])
def test_many_positive_rows_cost_no_accuracy(dtype: torch.dtype, stride: int) -> None:
    geometry = make_geometry(3, 5, stride, 2, 1, 1, "zeros", num_spatial=2)
    x = torch.rand(6, 3, 160, 160).to(dtype)
    truth = tiled_gram(x.double(), geometry)
    error = relative_error(shifted_gram(x, geometry, 0), truth)
    assert error < GRAM_EPS * torch.finfo(torch.float32).eps / 4


def test_empty_batch() -> None:
    geometry = make_geometry(3, 3, 1, 1, 1, 1, "zeros", num_spatial=2)
    value = shifted_gram(torch.zeros(0, 3, 8, 8), geometry, 0)
    assert torch.equal(value, torch.zeros(1, 27, 27, dtype=torch.float64))


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    geometry = make_geometry(1, 3, 1, 1, 1, 1, "zeros", num_spatial=2)
    x = torch.ones(1, 1, 8, 8)
    x[0, 0, 4, 4] = bad
    value = shifted_gram(x, geometry, 0)
    assert not value.diagonal(dim1=1, dim2=2).isfinite().any()


def test_a_bright_line_at_the_border_costs_no_accuracy() -> None:
    # What lies at the border is added to what all entries share, never subtracted.
    geometry = make_geometry(3, 7, 2, 3, 1, 1, "zeros", num_spatial=2)
    x = torch.randn(4, 3, 64, 64)
    x[:, :, 0] *= 1000
    truth = tiled_gram(x.double(), geometry)
    scale = truth.diagonal(dim1=1, dim2=2).sqrt()
    error = (shifted_gram(x, geometry, 0) - truth).abs()
    entrywise = error / (scale[:, :, None] * scale[:, None, :])
    assert entrywise.max() < GRAM_EPS * torch.finfo(torch.float32).eps


def test_pixels_that_the_layer_does_not_read() -> None:
    geometry = make_geometry(3, 9, 3, 0, 2, 1, "zeros", num_spatial=1)
    x = torch.randn(2, 3, 400)
    truth = shifted_gram(x, geometry, 0)
    positions = {3 * o + 2 * k for o in range(128) for k in range(9)}
    unread = [p for p in range(400) if p not in positions]
    assert unread
    x[..., unread] = float("nan")
    assert torch.equal(shifted_gram(x, geometry, 0), truth)


@pytest.mark.parametrize("mode", ["fake", "meta", "inference"])
def test_nothing_is_kept_of_other_modes(mode: str) -> None:
    geometry = make_geometry(2, 5, 1, 2, 1, 1, "zeros", num_spatial=2)
    geometry = replace(geometry, padding=((2, 1), (2, len(mode))))  # seen by no other
    contexts = {
        "fake": FakeTensorMode(),
        "meta": torch.device("meta"),
        "inference": torch.inference_mode(),
    }
    real = torch.randn(1, 2, 9, 9)
    with contexts[mode]:
        x = real if mode == "meta" else torch.randn(1, 2, 9, 9)
        shifted_gram(x, geometry, 0)
    truth = tiled_gram(real, geometry)
    error = relative_error(shifted_gram(real, geometry, 0), truth)
    assert error < GRAM_EPS * torch.finfo(torch.float32).eps


def test_symbolic_shapes() -> None:
    def patch_gram(x: torch.Tensor) -> torch.Tensor:
        return trainact.functional.patch_gram(x, 5, padding=2)

    x = torch.randn(4, 2, 24, 24)
    traced = make_fx(patch_gram, tracing_mode="symbolic")(x)
    torch.testing.assert_close(traced(x), patch_gram(x))


def peak_bytes(x: torch.Tensor, geometry: Geometry) -> int:
    """Size of the largest piece of memory that is taken on the way."""

    class Watch(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                storage = result.untyped_storage()
                if storage.data_ptr() != x.data_ptr():
                    self.largest = max(self.largest, storage.nbytes())
            return result

    with Watch() as watch:
        shifted_gram(x, geometry, 0)
    return watch.largest


@pytest.mark.parametrize(
    ("shape", "kernel"),
    [
        ((16, 3, 224, 224), 7),
        ((1, 3, 600, 800), 7),
        ((1, 1, 40, 64, 64), 7),
        ((1, 1, 3_000_000), 9),
        ((256, 64, 8, 8), 3),  # products of an image are more than its lines
    ],
)
def test_no_tensor_is_larger_than_a_tile(shape: tuple[int, ...], kernel: int) -> None:
    spatial = len(shape) - 2
    geometry = make_geometry(
        shape[1], kernel, 1, kernel // 2, 1, 1, "zeros", num_spatial=spatial
    )
    x = torch.zeros(shape)
    unfolded = 4 * geometry.num_entries * geometry.num_rows(x.shape)
    # One padded image may be more than a tile; bands share some lines.
    bound = max(1.2 * matmul.TILE_BYTES, 2 * 4 * x[0].numel())
    assert peak_bytes(x, geometry) < bound < unfolded


def test_every_output_is_in_one_band() -> None:
    geometry = make_geometry(2, 7, 2, 3, 1, 1, "zeros", num_spatial=2)
    layout = shifted.make_layout(geometry, 0)
    x = torch.randn(3, 2, 230, 150)
    seen = 0
    for view in shifted.slabs(x, geometry, layout):
        for band in shifted.bands(view, geometry, layout):
            images, count, _, _, height, width = band.shape
            seen += images * count * (height - layout.num_border) * width
            assert (height - layout.num_border) * width <= 1.1 * shifted.SUM_ROWS
    assert seen == geometry.num_rows((3, 3, 230, 150))


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
