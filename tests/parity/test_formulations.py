"""One update, written in several ways: the layers give the same gradient for each.

- The paper's second formulation, Sec. 3.1 (`test_second_formulation`).
- SGD is the limit of large λ at the matched learning rate
  (`test_training_reduces_to_sgd`).
- One linear map of patches as a convolution, as a linear layer on unfolded patches in
  any order of entries, behind space-to-depth, on packed sequences: all have the same
  rows (`test_*_is_the_convolution`). Where patches are dropped before the layer, the
  rows are the visible ones.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import trainact
from tests.cases import backward
from tests.tolerances import ORACLE_RTOL, relative_error
from trainact import reference

P, C, OUT = 4, 3, 5  # patch, channels, outputs
IMAGES = (2, C, 12, 8)


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def convolution(x: Tensor, **settings: int) -> tuple[Tensor, Tensor, nn.Conv2d]:
    """Gradient of a convolution under TrAct, that of its outputs, and the layer."""
    settings = {"kernel_size": P, "stride": P, **settings}
    conv = trainact.TrAct(nn.Conv2d(x.shape[1], OUT, **settings).double())
    _, grad_z = backward(conv, x)
    return conv.weight.grad, grad_z, conv


def gradient_of_linear(weight_OP: Tensor, x: Tensor, grad_z: Tensor) -> Tensor:
    """Gradient of a linear layer with this weight under TrAct."""
    layer = nn.Linear(weight_OP.shape[1], OUT, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(weight_OP)
    trainact.TrAct(layer)
    layer(x).backward(grad_z)
    return layer.weight.grad


def tokens(z: Tensor) -> Tensor:
    return z.flatten(2).mT


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


@pytest.mark.parametrize(("stride", "padding"), [(P, 0), (2, 1)])
def test_unfold_and_linear_is_the_convolution(stride: int, padding: int) -> None:
    x = random(*IMAGES)
    truth, grad_z, conv = convolution(x, stride=stride, padding=padding)
    rows = F.unfold(x, P, padding=padding, stride=stride).mT
    gradient = gradient_of_linear(conv.weight.flatten(1), rows, tokens(grad_z))
    assert relative_error(gradient, truth.flatten(1)) < ORACLE_RTOL


@pytest.mark.parametrize("order", ["channel, row, column", "row, column, channel"])
def test_linear_on_patches_is_the_convolution(order: str) -> None:
    # MLP-Mixer and ViTs for CIFAR cut the image by reshaping, channels last.
    x = random(*IMAGES)
    truth, grad_z, conv = convolution(x)
    cut = x.unflatten(2, (-1, P)).unflatten(4, (-1, P)).permute(0, 2, 4, 1, 3, 5)
    entries = (0, 1, 2, 3)
    if order == "row, column, channel":
        cut, entries = cut.permute(0, 1, 2, 4, 5, 3), (0, 2, 3, 1)
    rows = cut.flatten(3).flatten(1, 2)
    weight = conv.weight.permute(entries).flatten(1)
    gradient = gradient_of_linear(weight, rows, tokens(grad_z))
    assert relative_error(gradient, truth.permute(entries).flatten(1)) < ORACLE_RTOL


@pytest.mark.parametrize("kernel", [1, 3])
def test_space_to_depth_is_the_convolution(kernel: int) -> None:
    # A k x k convolution after blocks of 2 x 2 is a 2k x 2k one with stride 2.
    x = random(*IMAGES)
    settings = {"kernel_size": 2 * kernel, "stride": 2, "padding": kernel - 1}
    truth, grad_z, conv = convolution(x, **settings)

    def blocks(weight: Tensor) -> Tensor:
        return F.pixel_unshuffle(weight, 2)

    after = nn.Conv2d(4 * C, OUT, kernel, padding=kernel // 2).double()
    with torch.no_grad():
        after.weight.copy_(blocks(conv.weight))
    model = trainact.apply(nn.Sequential(nn.PixelUnshuffle(2), after))
    model(x).backward(grad_z)
    assert relative_error(after.weight.grad, blocks(truth)) < ORACLE_RTOL


def test_packed_sequences_are_the_convolution_of_every_image() -> None:
    # NaViT: patches of images of any size one after the other. Rows of one batch.
    batch = [random(1, C, 8, 8), 2 * random(1, C, 4, 12), random(1, C, 4, 4) + 1]
    rows = torch.cat([F.unfold(x, P, stride=P).mT for x in batch], dim=1)
    weight, grad_z = random(OUT, C * P * P), random(1, rows.shape[1], OUT)
    gradient = gradient_of_linear(weight, rows, grad_z)
    # All images side by side in one strip are one convolution.
    strip = torch.cat([row.view(1, C, P, P) for row in rows[0]], dim=3)
    conv = trainact.TrAct(nn.Conv2d(C, OUT, P, stride=P).double())
    conv(strip).backward(grad_z.mT[:, :, None])
    assert relative_error(gradient, conv.weight.grad.flatten(1)) < ORACLE_RTOL


def test_visible_patches_are_the_rows() -> None:
    # MAE that drops patches before the embedding: what is dropped does not count.
    x = random(*IMAGES)
    rows = F.unfold(x, P, stride=P).mT
    keep = torch.stack([torch.randperm(rows.shape[1])[:2] for _ in rows])
    visible = rows.gather(1, keep[..., None].expand(-1, -1, rows.shape[2]))
    weight, grad_z = random(OUT, C * P * P), random(2, 2, OUT)
    gradient = gradient_of_linear(weight, visible, grad_z)
    picked = np.concatenate([r[k] for r, k in zip(rows, keep, strict=True)])
    truth = reference.tract_gradient(grad_z.flatten(0, 1).numpy(), picked, 0.1)
    assert relative_error(gradient, truth) < ORACLE_RTOL
