"""What each method computes, against explicit computations in float64.

The oracle (`tests.cases`, on `trainact.reference`) shares no code with the methods.
Geometries are drawn: kernels, strides, paddings and their modes, dilations, groups,
with and without a batch dimension.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from tests.cases import draw_case, oracle_grad_rows, oracle_rows
from tests.lab.applied import apply
from tests.tolerances import (
    FLOAT32_PROMISE,
    ORACLE_RTOL,
    low_precision_rtol,
    relative_error,
)
from trainact.lab.methods import METHODS, MethodSettings
from trainact.lab.methods.patchnorm import EPS
from trainact.lab.methods.whitening import EPS as WHITENING_EPS
from trainact.lab.methods.whitening import NUM_IMAGES

KINDS = ("linear", "conv1d", "conv2d", "conv3d")


def draw_layer(kind: str, seed: int) -> tuple[Any, Tensor]:
    """A layer in float64 and an input of it, with patches of at least two entries."""
    rng = np.random.default_rng(seed)
    while True:
        case = draw_case(rng, kind)
        layer: Any = case.layer(torch.float64)
        if layer.weight[0].numel() > 1 and len(case.shape) > 1:
            return layer, case.input(torch.float64, seed)


def normed_rows(rows_GNP: np.ndarray) -> np.ndarray:
    mean = rows_GNP.mean(-1, keepdims=True)
    variance = ((rows_GNP - mean) ** 2).mean(-1, keepdims=True)
    return (rows_GNP - mean) / np.sqrt(variance + EPS)


def mapped(layer: Any, rows_GNP: np.ndarray) -> np.ndarray:
    """Weight and bias of every group on its rows, [G, N, O]."""
    groups, _, entries = rows_GNP.shape
    weight_GOP = layer.weight.detach().numpy().reshape(groups, -1, entries)
    z_GNO = rows_GNP @ weight_GOP.swapaxes(1, 2)
    if layer.bias is not None:
        z_GNO = z_GNO + layer.bias.detach().numpy().reshape(groups, 1, -1)
    return z_GNO


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", KINDS)
def test_patchnorm(kind: str, seed: int) -> None:
    layer, x = draw_layer(kind, seed)
    plain = layer(x)
    apply("patchnorm", layer, x, layer="")
    z = layer(x)
    assert z.shape == plain.shape
    assert z.is_contiguous()
    normed_GNP = normed_rows(oracle_rows(layer, x))
    assert relative_error(oracle_grad_rows(layer, z), mapped(layer, normed_GNP)) < (
        ORACLE_RTOL
    )
    grad_z = torch.randn_like(z)
    z.backward(grad_z)
    grad_GNO = oracle_grad_rows(layer, grad_z)
    truth = np.concatenate(list(grad_GNO.swapaxes(1, 2) @ normed_GNP))
    assert relative_error(layer.weight.grad.flatten(1), truth) < ORACLE_RTOL
    if layer.bias is not None:
        truth = grad_GNO.sum(1).reshape(-1)
        assert relative_error(layer.bias.grad, truth) < ORACLE_RTOL
    assert torch.equal(layer.eval()(x), z), "the same in inference"


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", KINDS)
def test_dual_patchnorm(kind: str, seed: int) -> None:
    layer, x = draw_layer(kind, seed)
    while getattr(layer, "groups", 1) > 1 or len(layer.weight) == 1:
        seed += 100
        layer, x = draw_layer(kind, seed)
    first = apply("patchnorm", copy.deepcopy(layer), x, layer="")(x)
    plain = layer(x)
    apply("dual-patchnorm", layer, x, layer="")
    z = layer(x)
    assert z.shape == plain.shape
    assert z.is_contiguous()
    post = normed_rows(oracle_grad_rows(layer, first))
    assert relative_error(oracle_grad_rows(layer, z), post) < ORACLE_RTOL, "at first"
    norms = (layer.pre_norm, layer.post_norm)
    for norm in norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    pre, post = ([p.detach().numpy() for p in norm.parameters()] for norm in norms)
    rows = normed_rows(oracle_rows(layer, x)) * pre[0] + pre[1]
    truth = normed_rows(mapped(layer, rows)) * post[0] + post[1]
    z = layer(x)
    assert relative_error(oracle_grad_rows(layer, z), truth) < ORACLE_RTOL
    z.square().sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", KINDS)
def test_whitening(kind: str, seed: int) -> None:
    layer, x = draw_layer(kind, seed)
    x = x.cumsum(-1)  # entries of a patch that have much in common, as in images
    weight = layer.weight.detach().clone()
    rows_GNP = oracle_rows(layer, x)
    plain = layer(x)
    apply("whitening", layer, x, layer="")
    z = layer(x)
    assert z.shape == plain.shape
    assert z.is_contiguous()
    V_GPP = layer.whitening.numpy()
    white_GNP = rows_GNP @ V_GPP.swapaxes(1, 2)
    truth = mapped(layer, white_GNP)
    assert relative_error(oracle_grad_rows(layer, z), truth) < ORACLE_RTOL
    moment_GPP = white_GNP.swapaxes(1, 2) @ white_GNP / white_GNP.shape[1]
    values_GP = np.linalg.eigvalsh(
        rows_GNP.swapaxes(1, 2) @ rows_GNP / rows_GNP.shape[1]
    ).clip(min=0)
    shrunk = values_GP / (values_GP + WHITENING_EPS)
    expected = np.stack([np.diag(values) for values in shrunk])
    np.testing.assert_allclose(moment_GPP, expected, atol=ORACLE_RTOL)
    grad_z = torch.randn_like(z)
    z.backward(grad_z)
    truth = oracle_grad_rows(layer, grad_z).swapaxes(1, 2) @ white_GNP
    assert relative_error(layer.weight.grad.reshape(truth.shape), truth) < ORACLE_RTOL
    assert torch.equal(layer.weight, weight), "the layer's own weight, as it was"


def digits_stem() -> tuple[Any, Tensor]:
    images = torch.from_numpy(load_digits().images)[:, None]
    images = (images - images.mean()) / images.std()
    return nn.Sequential(nn.Conv2d(1, 4, 3, bias=False, dtype=torch.float64)), images


def test_whitened_digits_are_white() -> None:
    model, images = digits_stem()
    apply("whitening", model, images)
    rows_NP = oracle_rows(model[0], images)[0]
    white_NP = rows_NP @ model[0].whitening[0].numpy().T
    moment_PP = white_NP.T @ white_NP / len(white_NP)
    values_P = np.linalg.eigvalsh(rows_NP.T @ rows_NP / len(rows_NP))
    large = values_P > 20 * WHITENING_EPS
    assert large.sum() >= 5
    off_by = np.abs(moment_PP[large][:, large] - np.eye(large.sum())).max()
    assert off_by <= 1 / 21
    assert values_P.max() / values_P.min() > 20, "they were not white before"


def test_whitening_is_frozen_and_in_the_checkpoint() -> None:
    model, images = digits_stem()
    fresh = copy.deepcopy(model)
    apply("whitening", model, images)
    before = model[0].whitening.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    model(images[:50]).square().mean().backward()
    optimizer.step()
    assert torch.equal(model[0].whitening, before)
    assert model[0].whitening.grad is None
    assert list(dict(model.named_parameters())) == ["0.weight"]
    assert set(model.state_dict()) == {"0.weight", "0.whitening"}
    apply("whitening", fresh, images[:10])
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(images[:20]), model(images[:20]))


def test_whitening_sees_images_as_the_model_hands_them_on() -> None:
    """From the first 5,000 images, in eval mode, which it then undoes."""
    asked: list[int] = []
    layer: Any = nn.Linear(8, 3).double()
    frozen = nn.BatchNorm1d(8, affine=False).double().eval()
    norm = nn.BatchNorm1d(8, affine=False).double()
    model = nn.Sequential(nn.Flatten(), norm, frozen, nn.Dropout(), layer)
    x = 3 * torch.randn(1200, 2, 4, dtype=torch.float64)

    def images(count: int) -> Tensor:
        asked.append(count)
        return x

    state = copy.deepcopy(norm.state_dict())
    settings = MethodSettings(lam=None, layer="4", example_input=x[:1], images=images)
    METHODS["whitening"].convert(model, settings)
    assert asked == [NUM_IMAGES] == [5000]
    assert [m.training for m in model] == [True, True, False, True, True]
    assert all(torch.equal(state[name], norm.state_dict()[name]) for name in state)
    with torch.no_grad():
        rows_NP = model.eval()[:4](x).numpy()
    white_NP = rows_NP @ layer.whitening[0].numpy().T
    shrunk = np.diagonal(white_NP.T @ white_NP / len(white_NP))
    values = np.linalg.eigvalsh(rows_NP.T @ rows_NP / len(rows_NP))
    np.testing.assert_allclose(shrunk, values / (values + WHITENING_EPS))


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_flat_patches(precision: str) -> None:
    """A bright sky: the std of a patch is a hundredth of its brightness."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 8, 3)
    x = 2.0 + 0.02 * torch.randn(2, 3, 16, 16)
    truth = mapped(copy.deepcopy(layer).double(), normed_rows(oracle_rows(layer, x)))
    apply("patchnorm", layer, x, layer="")
    is_low = precision == "bf16-mixed"
    with torch.autocast("cpu", torch.bfloat16, enabled=is_low):
        z = layer(x)
    bound = low_precision_rtol(torch.bfloat16) if is_low else FLOAT32_PROMISE
    assert relative_error(oracle_grad_rows(layer, z), truth) < bound
