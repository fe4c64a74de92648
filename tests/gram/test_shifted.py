"""XᵀX from shifts of the image.

Claims: shifts along any dimension give the tiles' sums, for drawn geometries and
wherever the batch is cut; float32 sums of millions of positive entries keep float32's
precision, also beside a much brighter border; no tensor larger than a tile is made.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

import trainact
from tests.cases import CONV_KINDS, drawn_convs, oracle_rows
from tests.drawing import examples
from tests.tolerances import GRAM_EPS, ORACLE_RTOL, relative_error
from trainact.geometry import Geometry, make_geometry
from trainact.gram import matmul, shifted
from trainact.gram.shifted import shifted_gram
from trainact.gram.tiled import tiled_gram


@pytest.mark.parametrize("tile_bytes", [1, 400, 4 * 2**20])
@pytest.mark.parametrize("kind", CONV_KINDS)
def test_shifts_are_the_patches_second_moment(kind, tile_bytes, monkeypatch) -> None:
    monkeypatch.setattr(matmul, "TILE_BYTES", tile_bytes)
    seen = 0
    for case, layer, images, geometry in drawn_convs(kind, 30, seed=5):
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
