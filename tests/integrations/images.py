"""Real images for the integrations: scikit-learn's digits, and a network for them."""

from __future__ import annotations

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tests.tolerances import relative_error


@cache
def digits(number: int) -> tuple[Tensor, Tensor]:
    """Standardised images ``[number, 1, 8, 8]`` and their labels."""
    data = load_digits()
    x = torch.tensor(data.images[:number], dtype=torch.float32)[:, None]
    return (x - x.mean()) / x.std(), torch.tensor(data.target[:number])


def dataset(number: int) -> TensorDataset:
    return TensorDataset(*digits(number))


def network(seed: int = 3) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1, dtype=torch.float32),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(64, 10, dtype=torch.float32),
    )


def weights(model: nn.Module) -> Tensor:
    """As one vector: the gradient of some, such as key biases, is nothing but noise."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def distance(found: nn.Module, truth: Tensor) -> float:
    return relative_error(weights(found), truth)
