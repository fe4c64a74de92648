"""Several optimizers as one are what they are apart, for everything that holds one.

Schedulers, GradScaler, closures, Lightning, checkpoints: always against two optimizers
that are stepped by hand, bit for bit.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR
from torch.utils.data import DataLoader, TensorDataset

import trainact
from tests.lab.conftest import CONFIG
from trainact.lab.methods import METHODS, MethodSettings
from trainact.lab.optimizers import ChainedOptimizer
from trainact.lab.quiet import quiet_lightning

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].argmax(1)
BATCHES = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 32, 8)]
# As CONFIG, which is SGD's, would be for Adam.
ADAM = replace(CONFIG, optimizer="adam", lr=1e-2)


def make_model() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def parts(model: Any) -> tuple[Optimizer, Optimizer]:
    return (
        SGD(model[0].parameters(), lr=0.1, momentum=0.9),
        Adam(model[2].parameters(), lr=0.01, weight_decay=1e-3),
    )


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def state_of(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def by_hand(num_epochs: int, schedule: Callable[[Optimizer], Any]) -> Tensor:
    model = make_model()
    optimizers = parts(model)
    schedulers = [schedule(optimizer) for optimizer in optimizers]
    for _ in range(num_epochs):
        for batch in BATCHES:
            model.zero_grad()
            loss_of(model, batch).backward()
            for part in (*optimizers, *schedulers):
                part.step()
    return state_of(model)


def cosine(optimizer: Optimizer) -> CosineAnnealingLR:
    return CosineAnnealingLR(optimizer, T_max=8)


def halving(optimizer: Optimizer) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: 0.5**step)


@pytest.mark.parametrize("schedule", [cosine, halving])
def test_a_scheduler_drives_all_groups(schedule: Callable[[Optimizer], Any]) -> None:
    model = make_model()
    optimizer = ChainedOptimizer(parts(model))
    scheduler = schedule(optimizer)
    for batch in 2 * BATCHES:
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
        scheduler.step()
    assert torch.equal(state_of(model), by_hand(2, schedule))
    assert [group["initial_lr"] for group in optimizer.param_groups] == [0.1, 0.01]
    first, second = (group["lr"] for group in optimizer.param_groups)
    assert first == pytest.approx(10 * second, abs=1e-12)


def test_the_closure_is_called_once_and_gradients_are_zeroed() -> None:
    model = make_model()
    optimizer = ChainedOptimizer(parts(model))
    losses: list[Tensor] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses.append(loss_of(model, BATCHES[0]))
        losses[-1].backward()
        return losses[-1]

    with torch.no_grad():
        assert optimizer.step(closure) is losses[0]
    assert len(losses) == 1
    assert all(p.grad is not None for p in model.parameters())
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("bad_layer", [None, 0, 2])
def test_grad_scaler(bad_layer: int | None) -> None:
    """An infinite gradient of one part skips the step of both."""
    model = make_model()
    optimizer = ChainedOptimizer(parts(model))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(loss_of(model, BATCHES[0])).backward()
    if bad_layer is not None:
        model[bad_layer].weight.grad[0, 0] = torch.inf
    before = state_of(model)
    scaler.step(optimizer)
    scaler.update()
    if bad_layer is not None:
        assert torch.equal(state_of(model), before)
        return
    other = make_model()
    loss_of(other, BATCHES[0]).backward()
    for part in parts(other):
        part.step()
    assert torch.equal(state_of(model), state_of(other))


def test_saved_and_loaded_it_goes_on_bit_for_bit() -> None:
    model = make_model()
    optimizer = ChainedOptimizer(parts(model))
    scheduler = cosine(optimizer)

    def run(model: Any, optimizer: Optimizer, scheduler: Any) -> None:
        for batch in BATCHES:
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            optimizer.step()
            scheduler.step()

    run(model, optimizer, scheduler)
    saved = copy.deepcopy([x.state_dict() for x in (model, optimizer, scheduler)])
    run(model, optimizer, scheduler)
    fresh = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    other = ChainedOptimizer(parts(fresh))
    other_scheduler = cosine(other)
    for part, state in zip((fresh, other, other_scheduler), saved, strict=True):
        part.load_state_dict(state)
    assert torch.equal(_flat(other.state_dict()), _flat(saved[1]))
    run(fresh, other, other_scheduler)
    assert torch.equal(state_of(fresh), state_of(model))
    assert torch.equal(_flat(other.state_dict()), _flat(optimizer.state_dict()))


def _flat(state: dict[str, Any]) -> Tensor:
    entries = [v for one in state["state"].values() for v in one.values()]
    rates = [torch.tensor([group["lr"]]) for group in state["param_groups"]]
    return torch.cat([entry.flatten() for entry in entries] + rates)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))]
)
def test_copies_step_on_their_own(copied: Callable[[Any], Any]) -> None:
    model = make_model()
    optimizer = ChainedOptimizer(parts(model))
    loss_of(model, BATCHES[0]).backward()
    optimizer.step()
    before = state_of(model)
    other, other_optimizer = copied((model, optimizer))
    for one, its in ((other, other_optimizer), (model, optimizer)):
        its.zero_grad()
        loss_of(one, BATCHES[1]).backward()
        its.step()
        if one is other:
            assert torch.equal(state_of(model), before)
    assert torch.equal(state_of(other), state_of(model))
    assert not torch.equal(state_of(other), before)


def test_parts_that_have_been_stepped_keep_their_state() -> None:
    model, other = make_model(), make_model()
    for one in (model, other):
        loss_of(one, BATCHES[0]).backward()
    by_part, to_chain = parts(model), parts(other)
    for part in (*by_part, *to_chain):
        part.step()
    for part in (*by_part, ChainedOptimizer(to_chain)):
        part.step()
    assert torch.equal(state_of(model), state_of(other))


def test_refused() -> None:
    model = make_model()
    sgd, adam = parts(model)
    with pytest.raises(RuntimeError, match="chain the optimizers anew"):
        ChainedOptimizer([sgd, adam]).add_param_group({"params": [torch.zeros(1)]})
    tied = Adam([model[0].weight, *model[2].parameters()])
    with pytest.raises(ValueError, match="more than one parameter group"):
        ChainedOptimizer([sgd, tied])
    with pytest.raises(ValueError, match="empty"):
        ChainedOptimizer([])


def converted(setting: Any, model: Any = None) -> tuple[Any, Optimizer]:
    model = model or make_model()
    method = METHODS["tract+sgd"]
    settings = MethodSettings(
        lam=0.2, layer=None, example_input=X[:1], images=lambda k: X[:k]
    )
    model = method.convert(model, settings)
    return model, method.optimizer(model, setting)


@pytest.mark.parametrize(("given", "lr"), [(None, 1e-2), (0.08, 0.08)])
def test_tract_sgd(given: float | None, lr: float) -> None:
    """TrAct's gradient, SGD's step on the first layer, Adam's on the others."""
    setting = replace(ADAM, first_layer_lr=given, momentum=0.8, weight_decay=0.01)
    model, optimizer = converted(setting)
    other = trainact.apply(make_model(), lam=0.2)
    by_part = (
        SGD(other[0].parameters(), lr=lr, momentum=0.8, weight_decay=0.01),
        Adam(other[2].parameters(), lr=1e-2, weight_decay=0.01),
    )
    for batch in BATCHES:
        for one, its in ((model, (optimizer,)), (other, by_part)):
            one.zero_grad()
            loss_of(one, batch).backward()
            for part in its:
                part.step()
    assert torch.equal(state_of(model), state_of(other))


def test_tract_sgd_of_a_single_layer_and_of_a_tied_one() -> None:
    model, optimizer = converted(ADAM, nn.Linear(6, 3))
    assert type(optimizer) is SGD
    tied = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3))
    tied[1].weight = tied[0].weight
    model, optimizer = converted(ADAM, tied)
    first, rest = (group["params"] for group in optimizer.param_groups)
    assert list(map(id, first)) == list(map(id, model[0].parameters()))
    assert len(rest) == 3


class Task(LightningModule):
    """Automatic optimisation with one optimizer and one scheduler, as in the lab."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self._optimizer = converted(ADAM)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ARG002
        return loss_of(self.model, batch)

    def configure_optimizers(self) -> Any:
        scheduler = {"scheduler": cosine(self._optimizer), "interval": "step"}
        return {"optimizer": self._optimizer, "lr_scheduler": scheduler}


def fit(task: Task, folder: Path, epochs: int, resume: Path | None = None) -> Path:
    checkpoint = ModelCheckpoint(folder)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[checkpoint],
        logger=False,
        gradient_clip_val=0.5,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with quiet_lightning():
        loader = DataLoader(TensorDataset(X, Y), batch_size=8)
        trainer.fit(task, loader, ckpt_path=resume)
    return Path(checkpoint.best_model_path)


def test_lightning_trains_and_resumes_as_by_hand(tmp_path: Path) -> None:
    whole, half, rest = Task(), Task(), Task()
    fit(whole, tmp_path / "whole", 2)
    saved = fit(half, tmp_path / "half", 1)
    fit(rest, tmp_path / "rest", 2, resume=saved)
    assert torch.equal(state_of(whole.model), state_of(rest.model))
    model, optimizer = converted(ADAM)
    scheduler = cosine(optimizer)
    for batch in 2 * BATCHES:
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        scheduler.step()
    assert torch.equal(state_of(whole.model), state_of(model))
