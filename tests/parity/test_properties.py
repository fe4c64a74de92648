"""What the closed form ΔW = G (A + λI)⁻¹ promises, of the layers themselves, in
float64.

- λ -> inf: λ ΔW -> G (`test_large_damping_is_the_plain_gradient`), and training follows
  plain SGD at the matched learning rate (`test_training_reduces_to_sgd`).
- N < P and λ -> 0: activations move exactly as proposed (`test_activations_move`).
- A rotation of the patch space rotates the update (`test_rotation`).
- X -> cX with λ -> c²λ leaves the change of the activations alone (`test_contrast`).
- Order and multiplicity of the samples do not matter (`test_samples`).
- ΔW is a descent direction (`test_descent`).
- Eq. 5 is stationary at the layer's own update (`test_layer_update_minimises_eq_5`).
- The paper's second formulation, Sec. 3.1, gives the same gradient
  (`test_second_formulation`).
"""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import trainact
from tests.tolerances import ORACLE_RTOL, relative_error

ROWS = st.sampled_from([1, 4, 7, 8, 30])
SEEDS = st.integers(0, 10_000)


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def tract(x: Tensor, grad_z: Tensor, lam: float = 0.1) -> Tensor:
    """The gradient that the layer computes."""
    layer = trainact.TrAct(nn.Linear(x.shape[1], grad_z.shape[1]).double(), lam=lam)
    layer(x).backward(grad_z)
    return layer.weight.grad


@given(rows=ROWS, seed=SEEDS)
def test_large_damping_is_the_plain_gradient(rows: int, seed: int) -> None:
    x, grad_z = random(rows, 8, seed=seed), random(rows, 3, seed=seed + 1)
    lam = 1e12
    assert relative_error(lam * tract(x, grad_z, lam), grad_z.T @ x) < ORACLE_RTOL


def test_training_reduces_to_sgd() -> None:
    # Not bitwise: λ x G/λ is rounded twice, and A / λ is small, not zero.
    lam, learning_rate = 1e9, 0.05
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    plain = plain.double()
    treated = trainact.apply(copy.deepcopy(plain), lam=lam)
    first, rest = trainact.split_parameters(treated)
    # The bias of the first layer has an ordinary gradient, so an ordinary rate.
    groups = [
        {"params": [first[0]], "lr": lam * learning_rate},
        {"params": [first[1], *rest]},
    ]
    optimizers = [
        torch.optim.SGD(plain.parameters(), lr=learning_rate),
        torch.optim.SGD(groups, lr=learning_rate),
    ]
    for step in range(10):
        x, y = random(5, 3, 6, 6, seed=step), torch.arange(5) % 2
        for model, optimizer in zip((plain, treated), optimizers, strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    for p, q in zip(plain.parameters(), treated.parameters(), strict=True):
        assert relative_error(q, p) < 1e3 / lam


def test_activations_move() -> None:
    x, grad_z, lam = random(4, 12), random(4, 3, seed=1), 1e-9
    # ΔW = -η b grad_zᵀ X⁺ for λ -> 0, so that X ΔWᵀ = -η b grad_z (Eq. 3).
    moved = x @ -tract(x, grad_z, lam).T
    assert relative_error(moved, -4 * grad_z) < 1e3 * lam


@given(rows=ROWS, seed=SEEDS)
def test_rotation(rows: int, seed: int) -> None:
    x, grad_z = random(rows, 8, seed=seed), random(rows, 3, seed=seed + 1)
    q, _ = torch.linalg.qr(random(8, 8, seed=seed + 2))
    assert relative_error(tract(x @ q.T, grad_z), tract(x, grad_z) @ q.T) < ORACLE_RTOL


@given(rows=ROWS, seed=SEEDS, contrast=st.sampled_from([0.01, 0.5, 3.0, 100.0]))
def test_contrast(rows: int, seed: int, contrast: float) -> None:
    x, grad_z = random(rows, 8, seed=seed), random(rows, 3, seed=seed + 1)
    moved = x @ tract(x, grad_z, 0.1).T
    scaled = contrast * x
    moved_scaled = scaled @ tract(scaled, grad_z, 0.1 * contrast**2).T
    assert relative_error(moved_scaled, moved) < ORACLE_RTOL


@given(rows=st.sampled_from([2, 4, 30]), seed=SEEDS)
def test_samples(rows: int, seed: int) -> None:
    x, grad_z = random(rows, 8, seed=seed), random(rows, 3, seed=seed + 1)
    once = tract(x, grad_z)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    assert relative_error(tract(x[order], grad_z[order]), once) < ORACLE_RTOL
    # A loss that averages halves each sample's gradient when the batch is doubled.
    twice = tract(torch.cat([x, x]), torch.cat([grad_z, grad_z]) / 2)
    assert relative_error(twice, once) < ORACLE_RTOL


@given(rows=ROWS, seed=SEEDS)
def test_descent(rows: int, seed: int) -> None:
    x, grad_z = random(rows, 8, seed=seed), random(rows, 3, seed=seed + 1)
    assert (tract(x, grad_z) * (grad_z.T @ x)).sum() > 0


@pytest.mark.parametrize("rows", [3, 40])
def test_layer_update_minimises_eq_5(rows: int) -> None:
    x, grad_z = random(rows, 8), random(rows, 3, seed=1) / rows
    lam, learning_rate = 0.1, 0.7
    weight = random(3, 8, seed=2)
    z_star = x @ weight.T - learning_rate * rows * grad_z
    delta = (-learning_rate * tract(x, grad_z, lam)).requires_grad_()
    residual = z_star - x @ (weight + delta).T
    objective = residual.square().sum() + lam * rows * delta.square().sum()
    (gradient,) = torch.autograd.grad(objective, delta)
    assert gradient.norm() < ORACLE_RTOL * objective


@pytest.mark.parametrize("rows", [4, 40])
def test_second_formulation(rows: int) -> None:
    # The gradient sees embed(x P), the rest of the network sees embed(x).
    x, target = random(rows, 8), random(rows, 3, seed=1)
    embed = nn.Linear(8, 3).double()
    treated = trainact.TrAct(copy.deepcopy(embed))
    inverse = torch.linalg.inv(x.T @ x / rows + 0.1 * torch.eye(8, dtype=torch.float64))
    z = embed(x @ inverse)
    z.data = embed(x)
    (z.tanh() - target).square().mean().backward()
    (treated(x).tanh() - target).square().mean().backward()
    assert relative_error(treated.weight.grad, embed.weight.grad) < ORACLE_RTOL
    assert relative_error(treated.bias.grad, embed.bias.grad) < ORACLE_RTOL
