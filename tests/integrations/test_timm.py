"""timm's training utilities with a model under TrAct, and no code of ours between.

- test_clip_modes, test_native_scaler: every clip mode sees TrAct's gradient
- test_ema, test_checkpoints: copies and files are of the plain model
- test_weight_decay_groups, test_layer_decay: timm's filters find what they found
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import load_checkpoint, resume_checkpoint
from timm.optim import create_optimizer_v2
from timm.optim._param_groups import (
    param_groups_layer_decay,
    param_groups_weight_decay,
)
from timm.utils import CheckpointSaver, ModelEmaV3, NativeScaler, dispatch_clip_grad
from torch import Tensor, nn

import trainact
from tests.integrations import images
from tests.integrations.images import distance, weights
from tests.tolerances import FLOAT32_PROMISE, relative_error

NUM_IMAGES = 24
STEM = "patch_embed.proj"
CLIPS = [("norm", 0.05), ("value", 1e-3), ("agc", 0.01)]


def make_model() -> nn.Module:
    torch.manual_seed(3)
    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=8,
        patch_size=2,
        in_chans=1,
        embed_dim=24,
        depth=1,
        num_classes=10,
    )
    # A zero head would leave the first step without a gradient at the stem.
    nn.init.normal_(model.head.weight, std=0.1)
    return model


def loss_of(model: nn.Module) -> Tensor:
    x, y = images.digits(NUM_IMAGES)
    return nn.functional.cross_entropy(model(x), y)


def gradient_by_hand(model: nn.Module) -> Tensor:
    """Plain backward, then A = XᵀX/b of the patches and its inverse, in float64."""
    loss_of(model).backward()
    grad = model.get_submodule(STEM).weight.grad.double()
    x, _ = images.digits(NUM_IMAGES)
    rows = nn.functional.unfold(x.double(), 2, stride=2).mT.flatten(0, 1)
    gram = rows.mT @ rows / len(rows) + 0.1 * torch.eye(4, dtype=torch.float64)
    return torch.linalg.solve(gram, grad.flatten(1).mT).mT.reshape(grad.shape)


def plain_with_gradient_of_tract() -> nn.Module:
    model = make_model()
    model.get_submodule(STEM).weight.grad = gradient_by_hand(model).float()
    return model


@pytest.mark.parametrize(("mode", "value"), CLIPS)
def test_clip_modes(mode: str, value: float) -> None:
    model, twin = trainact.apply(make_model()), plain_with_gradient_of_tract()
    loss_of(model).backward()
    before = model.get_submodule(STEM).weight.grad.clone()
    for one in (model, twin):
        dispatch_clip_grad(one.parameters(), value, mode=mode)
    found, truth = (m.get_submodule(STEM).weight.grad for m in (model, twin))
    assert relative_error(found, truth) < FLOAT32_PROMISE
    assert relative_error(found, before) > 1e-2, "something was clipped"


@pytest.mark.parametrize(("mode", "value"), CLIPS)
def test_native_scaler(mode: str, value: float) -> None:
    model, twin = trainact.apply(make_model()), plain_with_gradient_of_tract()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, twin)]
    NativeScaler("cpu")(
        loss_of(model),
        optimizers[0],
        clip_grad=value,
        clip_mode=mode,
        parameters=model.parameters(),
    )
    dispatch_clip_grad(twin.parameters(), value, mode=mode)
    optimizers[1].step()
    start = weights(make_model())
    moves = [weights(m) - start for m in (model, twin)]
    # The weights are rounded to float32 and hardly move.
    rounding = torch.finfo(torch.float32).eps * start.norm() / moves[1].norm()
    assert relative_error(*moves) < FLOAT32_PROMISE + rounding


def train(model: nn.Module, optimizer: Any, steps: int = 2) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()


def test_ema() -> None:
    model = trainact.apply(make_model())
    ema = ModelEmaV3(model, decay=0.5)
    average = weights(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        train(model, optimizer, 1)
        ema.update(model)
        average = 0.5 * average + 0.5 * weights(model)
    assert distance(ema.module, average) < FLOAT32_PROMISE
    make_model().load_state_dict(ema.module.state_dict())
    x, _ = images.digits(NUM_IMAGES)
    plain = make_model()
    plain.load_state_dict(ema.module.state_dict())
    assert torch.equal(ema.module(x), plain.eval()(x))


def test_checkpoints(tmp_path: Path) -> None:
    def start() -> tuple[nn.Module, Any]:
        model = trainact.apply(make_model())
        return model, create_optimizer_v2(model, "adamw", lr=1e-2, weight_decay=0.05)

    whole, optimizer = start()
    train(whole, optimizer, 4)
    half, optimizer = start()
    train(half, optimizer, 2)
    ema = ModelEmaV3(half)
    saver = CheckpointSaver(half, optimizer, model_ema=ema, checkpoint_dir=tmp_path)
    saver.save_checkpoint(0, metric=1.0)
    file = tmp_path / "last.pth.tar"
    resumed, optimizer = start()
    assert resume_checkpoint(resumed, str(file), optimizer, log_info=False) == 1
    train(resumed, optimizer, 2)
    assert torch.equal(weights(resumed), weights(whole))
    for use_ema in (False, True):
        plain = make_model()
        load_checkpoint(plain, str(file), use_ema=use_ema, weights_only=False)
        assert torch.equal(weights(plain), weights(half))
    assert b"trainact" not in file.read_bytes()


def names(model: nn.Module, groups: list[dict[str, Any]]) -> list[list[str]]:
    of = {id(p): name for name, p in model.named_parameters()}
    return [[of[id(p)] for p in group["params"]] for group in groups]


def test_weight_decay_groups() -> None:
    plain, model = make_model(), trainact.apply(make_model())
    for make in (param_groups_weight_decay, param_groups_layer_decay):
        expected = make(plain, weight_decay=0.05)
        found = make(model, weight_decay=0.05)
        assert names(model, found) == names(plain, expected)
        for group, twin in zip(found, expected, strict=True):
            group.pop("params")
            twin.pop("params")
            assert group == twin
    groups = param_groups_weight_decay(model, weight_decay=0.05)
    without, decayed = names(model, groups)
    assert f"{STEM}.bias" in without
    assert f"{STEM}.weight" in decayed
