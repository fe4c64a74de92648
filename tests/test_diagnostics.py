"""`trainact.diagnostics` against the oracle and against the layer's own gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import trainact
from trainact import reference
from trainact.diagnostics import diagnose

from .cases import backward, draw_case, oracle_grad_rows, oracle_rows
from .tolerances import ORACLE_RTOL


@pytest.mark.parametrize("kind", ["linear", "conv1d", "conv2d", "conv3d"])
def test_figures_are_the_oracles(kind: str) -> None:
    rng = np.random.default_rng(7)
    for _ in range(15):
        case = draw_case(rng, kind)
        layer = trainact.TrAct(case.layer(torch.float64), lam=0.3)
        x = case.input(torch.float64)
        _, grad_z = backward(layer, x)
        figures = diagnose(layer, x, grad_z)
        blocks = list(
            zip(oracle_rows(layer, x), oracle_grad_rows(layer, grad_z), strict=True)
        )
        rows = blocks[0][0]
        assert (figures.num_rows, figures.num_entries) == rows.shape
        tract = np.stack([reference.tract_gradient(g, r, 0.3) for r, g in blocks])
        plain = np.stack([reference.weight_gradient(g, r) for r, g in blocks])
        spectra = np.stack([np.linalg.eigvalsh(reference.gram(r)) for r, _ in blocks])
        scale = spectra.max() + 1e-300
        assert np.abs(figures.eigenvalues.numpy() - spectra).max() < ORACLE_RTOL * scale
        assert figures.condition_bound == pytest.approx((spectra.max() + 0.3) / 0.3)
        ratio = np.linalg.norm(tract) / np.linalg.norm(plain)
        assert figures.update_ratio == pytest.approx(ratio)
        own = layer.weight.grad.norm() / np.linalg.norm(plain)
        assert figures.update_ratio == pytest.approx(own.item())
        asked = np.stack([len(r) * g for r, g in blocks])
        moved = np.stack([r @ t.T for (r, _), t in zip(blocks, tract, strict=True)])
        error = np.linalg.norm(moved - asked) / np.linalg.norm(asked)
        assert figures.proposal_error == pytest.approx(error)
        assert 0 < figures.update_cosine <= 1 + ORACLE_RTOL


def test_tract_moves_the_activations_closer_than_the_plain_gradient() -> None:
    # Fig. 1 of the paper, on patches of which neighbours resemble each other.
    layer = trainact.TrAct(nn.Linear(8, 3))
    x = torch.randn(6, 8).cumsum(1)
    figures = diagnose(layer, x, torch.randn(6, 3))
    assert figures.proposal_error < 0.5 * figures.plain_proposal_error


def test_nothing_is_left_behind() -> None:
    layer = trainact.TrAct(nn.Conv2d(3, 4, 3))
    diagnose(layer, torch.randn(2, 3, 6, 6), torch.randn(2, 4, 4, 4))
    assert layer.weight.grad is None
    assert layer.training


def test_scalars_can_be_logged() -> None:
    layer = trainact.TrAct(nn.Linear(4, 2))
    scalars = diagnose(layer, torch.randn(9, 4), torch.randn(9, 2)).scalars()
    assert "eigenvalues" not in scalars
    assert scalars["num_rows"] == 9
    assert all(isinstance(value, float) for value in scalars.values())


@pytest.mark.parametrize(
    ("layer", "shape", "grad_shape", "message"),
    [
        (nn.Linear(4, 2), (9, 4), (9, 2), "takes a layer under TrAct, not Linear"),
        (trainact.TrAct(nn.Linear(4, 2)), (9, 4), (9, 3), r"output \(9, 2\): pass"),
        (trainact.TrAct(nn.Linear(5000, 2)), (3, 5000), (3, 2), "5000 entries is too"),
    ],
)
def test_arguments_are_checked(layer, shape, grad_shape, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        diagnose(layer, torch.randn(shape), torch.randn(grad_shape))
