"""Methods of one seed start from the same weights and see the same images in order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tests.lab.conftest import CONFIG
from trainact.lab import methods
from trainact.lab.config import RunConfig, Setting
from trainact.lab.data import ImageData, load_data
from trainact.lab.errors import LabError
from trainact.lab.methods import METHODS, Method, MethodSettings
from trainact.lab.models import BUILT_IN
from trainact.lab.run import make_trainer, prepare_model, train
from trainact.lab.schedules import make_schedule

CPU = torch.device("cpu")
ARMS = (("vanilla", None), ("tract", 1e6))


@pytest.fixture(scope="module")
def data() -> ImageData:
    return load_data("digits", Path("unused"), limit=150)


@pytest.mark.parametrize("model", BUILT_IN)
def test_same_weights(model: str, data: ImageData) -> None:
    states = []
    for method, lam in ARMS:
        config = replace(CONFIG, model=model, method=method, lam=lam)
        prepared, _ = prepare_model(config, data)
        states.append((prepared.state_dict(), torch.get_rng_state()))
    (first, first_rng), (second, second_rng) = states
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(first_rng, second_rng)
    other, _ = prepare_model(replace(CONFIG, model=model, seed=1), data)
    weights = [name for name in first if name.endswith("weight")]
    changed = [n for n in weights if not torch.equal(first[n], other.state_dict()[n])]
    assert len(changed) > 1


def test_a_method_that_draws_numbers_shifts_nothing(
    monkeypatch: pytest.MonkeyPatch, data: ImageData
) -> None:
    def draw(model: nn.Module, settings: MethodSettings) -> nn.Module:
        torch.rand(len(settings.example_input))
        return model

    prepare_model(CONFIG, data)
    expected = torch.rand(3)
    drawing = Method(name="vanilla", uses_lam=False, convert=draw)
    monkeypatch.setitem(methods.METHODS, "vanilla", drawing)
    prepare_model(CONFIG, data)
    assert torch.equal(torch.rand(3), expected)


def seen_images(
    monkeypatch: pytest.MonkeyPatch, data: ImageData, method: str, seed: int
) -> list[Tensor]:
    """The inputs of the model in training, in the order in which they came."""
    seen: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module.training:
            seen.append(inputs[0].clone())

    def spy(model: nn.Module, settings: MethodSettings) -> nn.Module:
        model = original.convert(model, settings)
        model.register_forward_pre_hook(note)
        return model

    original = METHODS[method]
    spied = Method(name=method, uses_lam=original.uses_lam, convert=spy)
    monkeypatch.setitem(methods.METHODS, method, spied)
    config = replace(CONFIG, method=method, lam=0.1, seed=seed, epochs=2)
    train(config, data, CPU, lambda _: None)
    monkeypatch.setitem(methods.METHODS, method, original)
    return seen


def test_same_order(monkeypatch: pytest.MonkeyPatch, data: ImageData) -> None:
    vanilla = seen_images(monkeypatch, data, "vanilla", seed=0)
    tract = seen_images(monkeypatch, data, "tract", seed=0)
    assert [len(batch) for batch in vanilla] == 2 * [64, 64, 22]
    assert all(map(torch.equal, vanilla, tract))
    assert not torch.equal(vanilla[0], vanilla[3]), "a new order in every epoch"
    other = seen_images(monkeypatch, data, "vanilla", seed=1)
    assert not torch.equal(vanilla[0], other[0]), "a new order for every seed"
    whole = torch.cat(vanilla[:3]).flatten(1)
    assert len(whole.unique(dim=0)) == len(
        data.train_images.flatten(1).unique(dim=0)
    ), "no image left out"


def test_normalised(monkeypatch: pytest.MonkeyPatch, data: ImageData) -> None:
    images = torch.cat(seen_images(monkeypatch, data, "vanilla", seed=0)[:3]).double()
    assert abs(images.mean().item()) < 1e-5
    assert abs(images.std(unbiased=False).item() - 1) < 1e-5


@pytest.mark.parametrize("model", BUILT_IN)
def test_tract_trains_every_model_and_makes_a_difference(
    model: str, data: ImageData
) -> None:
    layers = {
        "small-cnn": "conv1",
        "mlp": "fc1",
        "small-vit": "patch_embed.proj",
        "small-resnet": "conv1",
        "small-mixer": "stem.proj",
        "small-patches-4": "patches",
        "small-patches-16": "patches",
    }
    vanilla, tract = (
        train(
            replace(CONFIG, model=model, method=m, lam=lam, lr=0.05), data, CPU, _drop
        )
        for m, lam in (("vanilla", None), ("tract", 0.1))
    )
    assert tract.layers == (layers[model],)
    assert vanilla.layers == ()
    assert tract.loss != vanilla.loss
    assert tract.loss[-1] is not None
    assert tract.loss[0] is not None
    assert tract.loss[-1] < tract.loss[0]


def test_a_run_repeats(data: ImageData) -> None:
    config = replace(CONFIG, method="tract", lam=0.1)
    first, second = (train(config, data, CPU, _drop) for _ in range(2))
    assert first.loss == second.loss
    assert first.accuracy == second.accuracy


@pytest.mark.parametrize(("schedule", "last"), [("cosine", 0.0), ("constant", 0.1)])
def test_the_rate_is_stepped_after_every_batch_down_to_its_end(
    monkeypatch: pytest.MonkeyPatch, data: ImageData, schedule: str, last: float
) -> None:
    schedulers: list[LRScheduler] = []

    def keep(optimizer: Optimizer, setting: Setting, steps: int) -> LRScheduler:
        schedulers.append(make_schedule(optimizer, setting, steps))
        return schedulers[-1]

    monkeypatch.setattr("trainact.lab.task.make_schedule", keep)
    train(replace(CONFIG, schedule=schedule), data, CPU, _drop)
    (scheduler,) = schedulers
    assert scheduler.last_epoch == 3 * 3  # epochs times batches of 64, 64 and 22
    assert scheduler.get_last_lr() == [pytest.approx(last, abs=1e-9)]


def test_a_run_that_was_cut_short_is_not_recorded(
    monkeypatch: pytest.MonkeyPatch, data: ImageData
) -> None:
    def short(config: RunConfig, *arguments: Any) -> Trainer:
        return make_trainer(replace(config, epochs=1), *arguments)

    monkeypatch.setattr("trainact.lab.run.make_trainer", short)
    with pytest.raises(LabError, match="stopped after epoch 1 of 3"):
        train(CONFIG, data, CPU, _drop)


def _drop(_: object) -> None:
    pass
