"""PEFT: adapters beside a layer under TrAct, merged weights, layers saved in full."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import trainact
from tests.cases import oracle_gradient
from tests.tolerances import ORACLE_RTOL, relative_error

peft = pytest.importorskip("peft")

X = torch.randn(5, 3, 8, 8, dtype=torch.float64)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, bias=False)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x).relu().mean((2, 3)))


def adapted(model: nn.Module, **settings: object) -> nn.Module:
    torch.manual_seed(0)
    # The layer under TrAct keeps its class, which PEFT does not know by name.
    return peft.get_peft_model(model, peft.LoraConfig(r=2, **settings))


def step(model: nn.Module) -> dict[str, Tensor]:
    model(X).square().sum().backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def assert_oracle(stem: nn.Module) -> None:
    z = stem(X)
    grad_z = torch.randn_like(z)
    z.backward(grad_z)
    weight = next(p for p in stem.parameters() if p.grad is not None)
    plain = nn.Conv2d(3, 4, 3).double()
    truth = oracle_gradient(plain, X, grad_z, 0.1)
    assert relative_error(weight.grad, truth) < ORACLE_RTOL


def test_adapters_train_as_beside_a_plain_layer() -> None:
    plain = Net().double()
    settings = {"target_modules": ["stem"], "init_lora_weights": False}
    treated = adapted(trainact.apply(copy.deepcopy(plain)), **settings)
    gradients, expected = step(treated), step(adapted(plain, **settings))
    assert gradients.keys() == expected.keys() != set()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient)
    merged = treated.merge_and_unload()
    assert list(trainact.tract_layers(merged)) == ["stem"]
    assert_oracle(merged.requires_grad_(True).stem)


def test_a_layer_that_is_trained_in_full() -> None:
    model = adapted(
        trainact.apply(Net().double()),
        target_modules=["head"],
        modules_to_save=["stem"],
    )
    assert_oracle(model.base_model.model.stem)
