"""Explicit patches and the tiled Gram matrix.

Claims: the Gram is the explicit patches' second moment over drawn geometries; how it is
cut into tiles does not matter; no tile is larger than the bound, so that the unfolded
batch never exists.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.cases import CONV_KINDS, drawn_convs, oracle_rows
from tests.tolerances import GRAM_EPS, ORACLE_RTOL, relative_error
from trainact.geometry import Geometry, make_geometry
from trainact.gram import matmul, tiled
from trainact.gram.patches import extract_patches
from trainact.gram.route import compute_gram
from trainact.gram.tiled import tiled_gram


@pytest.mark.parametrize("kind", CONV_KINDS)
def test_patches_are_the_oracles(kind: str) -> None:
    for case, layer, images, geometry in drawn_convs(kind, 40, seed=1):
        patches = extract_patches(images, geometry).numpy()
        assert np.array_equal(patches, oracle_rows(layer, images)), case


@pytest.mark.parametrize("tile_bytes", [1, 400, 4 * 2**20])
@pytest.mark.parametrize("kind", CONV_KINDS)
def test_gram_is_the_patches_second_moment(kind, tile_bytes, monkeypatch) -> None:
    monkeypatch.setattr(matmul, "TILE_BYTES", tile_bytes)
    for case, layer, images, geometry in drawn_convs(kind, 40, seed=2):
        rows = oracle_rows(layer, images)
        truth = np.einsum("gnp,gnq->gpq", rows, rows)
        assert relative_error(tiled_gram(images, geometry), truth) < ORACLE_RTOL, case


def test_tiles_respect_the_bound() -> None:
    # ResNet-50's stem, whose unfolded batch would be 470 times the bound at 256 images.
    geometry = make_geometry(3, 7, 2, 3, 1, 1, "zeros", num_spatial=2)
    for shape in [(16, 3, 224, 224), (64, 3, 32, 32)]:
        sizes = [4 * t.numel() for t in tiled._tiles(torch.zeros(shape), geometry)]
        unfolded = 4 * geometry.num_entries * geometry.num_rows(shape)
        assert sum(sizes) == unfolded
        assert max(sizes) <= matmul.TILE_BYTES


def test_a_single_volume_is_cut_too() -> None:
    geometry = make_geometry(2, 3, 1, 1, 1, 1, "zeros", num_spatial=3)
    x = torch.randn(1, 2, 40, 40, 40)
    sizes = [4 * t.numel() for t in tiled._tiles(x, geometry)]
    assert len(sizes) > 1
    assert max(sizes) <= matmul.TILE_BYTES


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_many_rows_cost_no_accuracy(dtype: torch.dtype) -> None:
    x = torch.rand(400_000, 9).to(dtype)
    exact = x.double().T @ x.double()
    error = relative_error(tiled_gram(x, Geometry(x.shape[1]))[0], exact)
    assert error < GRAM_EPS * torch.finfo(torch.float32).eps


def test_memory_formats_agree() -> None:
    geometry = make_geometry(3, 3, 1, 1, 1, 1, "reflect", num_spatial=2)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    last = x.to(memory_format=torch.channels_last)
    plain, other = compute_gram(x, geometry), compute_gram(last, geometry)
    assert relative_error(other, plain) < ORACLE_RTOL
