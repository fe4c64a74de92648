"""The oracle itself: the paper's equations hold for it.

- Eq. 5: its update is the minimiser, by autograd (`test_update_is_first_order_optimal`)
  and by comparison with other updates (`test_no_other_update_is_better`).
- Lemma 1: the normal equations hold (`test_normal_equations`).
- Lemma 2, both ways (`test_lemma_2`).
- Woodbury: the dual form is the same (`test_dual_form`).
- λ -> inf: λ ΔW -> G (`test_large_damping_is_the_plain_gradient`).
- N < P and λ -> 0: activations move exactly as proposed (`test_activations_move`).
- A rotation of the patch space rotates the update (`test_rotation`).
- X -> cX with λ -> c²λ leaves the change of the activations alone (`test_contrast`).
- Order and multiplicity of the samples do not matter (`test_samples`).
- The update descends (`test_descent`).
- Its patches give torch's convolution gradient (`test_unfold`).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainact import reference

from .cases import KINDS, backward, draw_case, oracle_grad_rows, oracle_rows
from .tolerances import ORACLE_RTOL, relative_error

ROWS = st.sampled_from([1, 4, 7, 8, 30])
SEEDS = st.integers(0, 10_000)


def problem(rows: int = 9, entries: int = 6, outputs: int = 4, seed: int = 0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, entries))
    weight = rng.standard_normal((outputs, entries))
    return x, weight, x @ weight.T, rng.standard_normal((rows, outputs)) / rows


@pytest.mark.parametrize("rows", [3, 6, 20])
def test_update_is_first_order_optimal(rows: int) -> None:
    x, weight, z, grad_z = problem(rows)
    lam, learning_rate = 0.1, 0.5
    delta = torch.tensor(
        reference.update(grad_z, x, lam, learning_rate), requires_grad=True
    )
    # Eq. 3 and Eq. 5, in torch so that autograd can judge the answer.
    z_star = torch.tensor(reference.activation_proposal(z, grad_z, learning_rate))
    x_t, weight_t = torch.tensor(x), torch.tensor(weight)
    residual = z_star - x_t @ (weight_t + delta).T
    objective = residual.square().sum() + lam * rows * delta.square().sum()
    objective.backward()
    assert delta.grad.norm() < ORACLE_RTOL * objective.item()
    assert objective.item() == pytest.approx(
        reference.objective(delta.detach().numpy(), weight, x, z_star.numpy(), lam)
    )


@given(seed=st.integers(0, 10_000), step=st.sampled_from([1e-3, 0.1, 1.0]))
def test_no_other_update_is_better(seed: int, step: float) -> None:
    x, weight, z, grad_z = problem(seed=seed)
    z_star = reference.activation_proposal(z, grad_z, 0.5)
    best = reference.update(grad_z, x, 0.1, 0.5)
    other = best + step * np.random.default_rng(seed).standard_normal(best.shape)
    value = reference.objective(best, weight, x, z_star, 0.1)
    assert value < reference.objective(other, weight, x, z_star, 0.1)


def test_normal_equations() -> None:
    x, _, _, grad_z = problem()
    delta = reference.update(grad_z, x, 0.1, 0.5)
    left = delta @ (x.T @ x + 0.1 * len(x) * np.eye(6))
    right = -0.5 * len(x) * grad_z.T @ x
    assert relative_error(left, right) < ORACLE_RTOL


@pytest.mark.parametrize("rows", [3, 20])
def test_lemma_2(rows: int) -> None:
    # (i) A zero gradient gives a zero update, although the activations' is not zero.
    x, _, _, grad_z = problem(rows)
    basis, _ = np.linalg.qr(x)
    outside = grad_z - basis @ (basis.T @ grad_z)
    assert np.abs(reference.tract_gradient(outside, x, 0.1)).max() < ORACLE_RTOL
    # (ii) The update determines the gradient, so a zero update means a zero gradient.
    tract = reference.tract_gradient(grad_z, x, 0.1)
    recovered = tract @ (reference.gram(x) + 0.1 * np.eye(6))
    plain = reference.weight_gradient(grad_z, x)
    assert relative_error(recovered, plain) < ORACLE_RTOL
    smallest = np.linalg.norm(plain) / (np.linalg.norm(reference.gram(x), 2) + 0.1)
    assert np.linalg.norm(tract) >= smallest > 0


@pytest.mark.parametrize("rows", [1, 3, 6, 20])
def test_dual_form(rows: int) -> None:
    x, _, _, grad_z = problem(rows)
    primal = reference.tract_gradient(grad_z, x, 0.1)
    dual = reference.tract_gradient_dual(grad_z, x, 0.1)
    assert relative_error(dual, primal) < ORACLE_RTOL


@given(rows=ROWS, seed=SEEDS)
def test_large_damping_is_the_plain_gradient(rows: int, seed: int) -> None:
    x, _, _, grad_z = problem(rows, seed=seed)
    lam = 1e12
    scaled = lam * reference.tract_gradient(grad_z, x, lam)
    assert relative_error(scaled, reference.weight_gradient(grad_z, x)) < ORACLE_RTOL


def test_activations_move() -> None:
    x, _, _, grad_z = problem(rows=4, entries=12)
    lam = 1e-9
    # ΔW = -η b grad_zᵀ X⁺ for λ -> 0, so that X ΔWᵀ = -η b grad_z (Eq. 3).
    moved = x @ -reference.tract_gradient(grad_z, x, lam).T
    assert relative_error(moved, -4 * grad_z) < 1e3 * lam


@given(rows=ROWS, seed=SEEDS)
def test_rotation(rows: int, seed: int) -> None:
    x, _, _, grad_z = problem(rows, seed=seed)
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((6, 6)))
    rotated = reference.tract_gradient(grad_z, x @ q.T, 0.1)
    plain = reference.tract_gradient(grad_z, x, 0.1)
    assert relative_error(rotated, plain @ q.T) < ORACLE_RTOL


@given(rows=ROWS, seed=SEEDS, contrast=st.sampled_from([0.01, 0.5, 3.0, 100.0]))
def test_contrast(rows: int, seed: int, contrast: float) -> None:
    x, _, _, grad_z = problem(rows, seed=seed)
    moved = x @ reference.tract_gradient(grad_z, x, 0.1).T
    scaled = contrast * x
    tract = reference.tract_gradient(grad_z, scaled, 0.1 * contrast**2)
    assert relative_error(scaled @ tract.T, moved) < ORACLE_RTOL


@given(rows=ROWS, seed=SEEDS)
def test_samples(rows: int, seed: int) -> None:
    x, _, _, grad_z = problem(rows, seed=seed)
    once = reference.tract_gradient(grad_z, x, 0.1)
    order = np.random.default_rng(seed).permutation(rows)
    permuted = reference.tract_gradient(grad_z[order], x[order], 0.1)
    assert relative_error(permuted, once) < ORACLE_RTOL
    # A loss that averages halves each sample's gradient when the batch is doubled.
    halves = np.concatenate([grad_z, grad_z]) / 2
    twice = reference.tract_gradient(halves, np.concatenate([x, x]), 0.1)
    assert relative_error(twice, once) < ORACLE_RTOL


@given(rows=ROWS, seed=SEEDS)
def test_descent(rows: int, seed: int) -> None:
    x, _, _, grad_z = problem(rows, seed=seed)
    tract = reference.tract_gradient(grad_z, x, 0.1)
    assert np.sum(tract * reference.weight_gradient(grad_z, x)) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_unfold(kind: str) -> None:
    rng = np.random.default_rng(4)
    for _ in range(25):
        case = draw_case(rng, kind)
        layer, x = case.layer(torch.float64), case.input(torch.float64)
        _, grad_z = backward(layer, x)
        blocks = zip(
            oracle_grad_rows(layer, grad_z), oracle_rows(layer, x), strict=True
        )
        gradient = np.concatenate([reference.weight_gradient(g, r) for g, r in blocks])
        truth = layer.weight.grad.reshape(gradient.shape)
        assert relative_error(gradient, truth) < ORACLE_RTOL, case
