"""The implicit unfold: XᵀX straight from the image.

Claims: it is the oracle's, for every geometry, dtype and memory layout, however the
work is cut; it is symmetric and the same at every run to the bit; it depends on nothing
that was in memory before; long sums cost no accuracy; what is not finite comes through.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.drawing import examples
from tests.tolerances import GRAM_EPS, relative_error
from trainact import reference
from trainact.geometry import Geometry, make_geometry

from .conftest import needs_interpreter, needs_triton

pytestmark = [needs_triton, needs_interpreter]
kernel: Any = pytest.importorskip("trainact.kernels.gram")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BOUND = GRAM_EPS * torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Stem:
    shape: tuple[int, ...]
    kernel: Any
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1
    mode: str = "zeros"

    @property
    def geometry(self) -> Geometry:
        return make_geometry(
            self.shape[1],
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.mode,
            num_spatial=len(self.shape) - 2,
        )

    def input(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        # Not centred: the border's zeros must differ from the mean.
        return (torch.randn(self.shape) + 0.5).to(dtype)


STEMS = {
    "3x3/1": Stem((3, 3, 9, 7), 3, padding=1),
    "7x7/2": Stem((1, 2, 11, 9), 7, stride=2, padding=3),
    "4x4/4": Stem((3, 3, 8, 12), 4, stride=4),
    "audio": Stem((2, 1, 203), 10, stride=5),
    "video": Stem((1, 3, 4, 9, 5), (2, 4, 4), stride=(2, 4, 4)),
    "groups": Stem((2, 6, 7, 7), 3, padding=1, groups=3),
    "depthwise": Stem((2, 5, 6, 6), 3, groups=5),
    "dilation": Stem((2, 2, 13, 11), 3, stride=(2, 1), padding=2, dilation=(2, 3)),
    "asymmetric": Stem((2, 2, 7, 8), (2, 4), padding="same"),
    "3-D": Stem((1, 2, 5, 6, 7), (3, 1, 2), (1, 2, 3), (1, 0, 1), (2, 1, 1)),
    "reflect": Stem((2, 2, 6, 6), 3, padding=2, mode="reflect"),
    "circular": Stem((2, 2, 6, 6), 3, padding=1, mode="circular"),
    "one row": Stem((1, 3, 3, 3), 3),
    "one entry": Stem((3, 1, 7), 1),
}


def truth(x: torch.Tensor, geometry: Geometry) -> np.ndarray:
    values = x.double().numpy()
    if geometry.num_spatial == 0:
        rows = values.reshape(1, -1, values.shape[-1])
    else:
        rows = reference.unfold(
            values,
            geometry.kernel_size,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            geometry.groups,
            geometry.padding_mode,
        )
    return np.einsum("gnp,gnq->gpq", rows, rows)


@pytest.mark.parametrize("name", STEMS)
def test_products_are_the_oracles(name: str) -> None:
    stem = STEMS[name]
    x = stem.input()
    result = kernel.patch_products(x, stem.geometry)
    assert result.dtype == torch.float64
    assert relative_error(result, truth(x, stem.geometry)) < BOUND
    assert torch.equal(result, result.mT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["4x4/4", "groups", "asymmetric", "reflect"])
def test_half_precision_is_not_rounded_further(name: str, dtype: torch.dtype) -> None:
    stem = STEMS[name]
    x = stem.input(dtype)
    result = kernel.patch_products(x, stem.geometry)
    assert result.dtype == torch.float64
    assert relative_error(result, truth(x, stem.geometry)) < BOUND
    assert torch.equal(result, result.mT)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(40, 70), (3, 5, 11), (16,)])
def test_vectors(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, vectors = torch.randn(shape).to(dtype), Geometry(shape[-1])
    assert relative_error(kernel.patch_products(x, vectors), truth(x, vectors)) < BOUND


LAYOUTS = {
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "every second column": lambda x: x.repeat_interleave(2, 3)[..., ::2],
    "transposed": lambda x: x.mT.contiguous().mT,
    "images apart": lambda x: x.repeat_interleave(3, 0)[::3],
    "one image, expanded": lambda x: x[:1].expand_as(x),
    "offset": lambda x: torch.cat([x, x])[len(x) :],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layouts_are_read_in_place(layout: str) -> None:
    stem = STEMS["3x3/1"]
    x = LAYOUTS[layout](stem.input())
    result = kernel.patch_products(x, stem.geometry)
    assert relative_error(result, truth(x, stem.geometry)) < BOUND


@pytest.mark.parametrize("block_entries", [16, 32, 64])
@pytest.mark.parametrize("block_rows", [16, 64])
def test_cuts_do_not_matter(block_entries: int, block_rows: int) -> None:
    stem = Stem((2, 3, 11, 10), (3, 4), padding=1)
    x, launch = stem.input(), kernel.Launch(block_entries, block_rows)
    result = kernel.patch_products(x, stem.geometry, launch)
    assert relative_error(result, truth(x, stem.geometry)) < BOUND


@pytest.mark.parametrize("programs", [1, 3, 64])
def test_splits_do_not_matter(programs: int, monkeypatch) -> None:
    monkeypatch.setattr(kernel, "INTERPRETED_PROGRAMS", programs)
    stem = Stem((4, 1, 12, 12), 2)
    x, launch = stem.input(), kernel.Launch(16, 16)
    result = kernel.patch_products(x, stem.geometry, launch)
    assert relative_error(result, truth(x, stem.geometry)) < BOUND


def test_inputs_beyond_32_bit_offsets(monkeypatch) -> None:
    monkeypatch.setattr(kernel, "_span", lambda _: 2**31)
    stem = STEMS["3-D"]
    x = stem.input()
    result = kernel.patch_products(x, stem.geometry)
    assert relative_error(result, truth(x, stem.geometry)) < BOUND


@given(data=st.data())
@examples(20)
def test_drawn_geometries(data: st.DataObject) -> None:
    spatial = data.draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return data.draw(st.tuples(*[st.integers(low, high)] * spatial))

    groups = data.draw(st.sampled_from([1, 2]))
    geometry = Geometry(
        channels=groups * data.draw(st.integers(1, 2)),
        kernel_size=each(1, 3),
        stride=each(1, 3),
        padding=tuple(zip(each(0, 2), each(0, 2), strict=True)),
        dilation=each(1, 2),
        groups=groups,
    )
    size = tuple(
        extent + more for extent, more in zip(geometry.extent, each(0, 3), strict=True)
    )
    x = torch.randn(data.draw(st.integers(1, 3)), geometry.channels, *size)
    result = kernel.patch_products(x, geometry, kernel.Launch(16, 16))
    assert relative_error(result, truth(x, geometry)) < BOUND


@pytest.mark.parametrize("shape", [(0, 3, 9, 7), (0, 5)])
def test_empty_batch(shape: tuple[int, ...]) -> None:
    geometry = STEMS["3x3/1"].geometry if len(shape) == 4 else Geometry(5)
    result = kernel.patch_products(torch.empty(shape), geometry)
    assert result.shape == (1, geometry.num_entries, geometry.num_entries)
    assert not result.any()


def test_memory_is_written_before_it_is_read() -> None:
    # The fixture fills uninitialised memory with NaN: the workspace and the result.
    assert torch.ones(1).new_empty(64, dtype=torch.float64).isnan().all()
    stem = STEMS["3x3/1"]
    assert kernel.patch_products(stem.input(), stem.geometry).isfinite().all()


def test_two_runs_agree_to_the_bit() -> None:
    stem = STEMS["3x3/1"]
    x = stem.input()
    first, second = (kernel.patch_products(x, stem.geometry) for _ in range(2))
    assert torch.equal(first, second)


def test_long_sums_cost_no_accuracy(monkeypatch) -> None:
    # Equal terms are rounded alike, so that errors do not cancel.
    monkeypatch.setattr(kernel, "INTERPRETED_PROGRAMS", 1)
    x, vectors = torch.full((16_384, 2), 1 / 3), Geometry(2)
    launch, expected = kernel.Launch(16, 64), truth(x, vectors)
    error = relative_error(kernel.patch_products(x, vectors, launch), expected)
    monkeypatch.setattr(kernel, "BLOCK_ROWS", len(x))
    one_sum = relative_error(kernel.patch_products(x, vectors, launch), expected)
    assert error < BOUND
    assert one_sum > 4 * error  # what one float32 sum would have cost


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_comes_through(bad: float) -> None:
    stem = STEMS["groups"]
    x = stem.input()
    x[0, 0, 3, 3] = bad  # a channel of the first group, in no row alone
    result = kernel.patch_products(x, stem.geometry)
    assert not result[0].diagonal().isfinite().all()
    assert result[1:].isfinite().all()


@given(
    num_rows=st.integers(1, 10**8),
    num_blocks=st.integers(1, 500),
    programs=st.integers(1, 2000),
    block_rows=st.sampled_from([16, 64, 256]),
)
def test_rows_are_split_within_bounds(
    num_rows: int, num_blocks: int, programs: int, block_rows: int
) -> None:
    launch = kernel.Launch(64, block_rows)
    split = kernel.split_rows(num_rows, num_blocks, programs, launch)
    rows_per_split = block_rows * split.tiles_per_chunk * split.chunks_per_split
    assert split.num_splits * rows_per_split >= num_rows
    assert (split.num_splits - 1) * rows_per_split < num_rows  # none is empty
    assert split.tiles_per_chunk * block_rows <= kernel.BLOCK_ROWS
    assert split.num_splits == 1 or split.num_splits * num_blocks <= programs
    workspace = 8 * split.num_splits * num_blocks * launch.block_entries**2
    assert split.num_splits == 1 or workspace <= kernel.WORKSPACE_BYTES
