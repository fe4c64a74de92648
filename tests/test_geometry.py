"""Where the patches of a layer lie: as PyTorch's convolutions have them."""

from __future__ import annotations

import pytest

from .cases import CONV_KINDS, drawn_convs


@pytest.mark.parametrize("kind", CONV_KINDS)
def test_geometry_predicts_the_output(kind: str) -> None:
    for case, layer, images, geometry in drawn_convs(kind, 60, seed=0):
        output = layer(images)
        spatial = images.shape[2:]
        assert geometry.output_size(spatial) == tuple(output.shape[2:]), case
        assert geometry.num_entries == layer.weight[0].numel(), case
        assert geometry.num_rows(images.shape) == output[:, 0].numel(), case
