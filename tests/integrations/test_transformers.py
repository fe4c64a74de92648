"""Hugging Face's Trainer and Accelerate: the weights are those of a loop by hand.

- test_trainer_is_the_loop: TrActCallback, with and without deferral and clipping
- test_the_clip_sees_what_the_step_sees
- test_resume_is_exact, test_saved_models_are_plain
- test_accelerate_is_the_loop
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

import trainact
from tests.integrations import images
from tests.integrations.images import distance, weights
from tests.tolerances import ORACLE_RTOL, low_precision_rtol, relative_error
from trainact.integrations.transformers import DeferredMixin, TrActCallback

NUM_IMAGES, BATCH, MICRO_BATCHES = 48, 16, 2
STEM = "vit.embeddings.patch_embeddings.projection"
CONFIG = ViTConfig(
    image_size=8,
    patch_size=2,
    num_channels=1,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    num_labels=10,
)
CONVNEXT = ConvNextConfig(
    num_channels=1,
    patch_size=2,
    hidden_sizes=[8, 8],
    depths=[1, 1],
    num_stages=2,
    num_labels=10,
)


class Digits(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return NUM_IMAGES

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        x, y = images.digits(NUM_IMAGES)
        return {"pixel_values": x[index].double(), "labels": y[index]}


class InOrder(Trainer):
    """A Trainer that does not shuffle, so that a loop can do the same."""

    def _get_train_sampler(self, *_: Any) -> None:
        return None


class DeferredTrainer(DeferredMixin, InOrder):
    pass


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """Accelerate keeps its state for the process, also in the environment."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    environment = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(environment)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def make_model(dtype: torch.dtype = torch.float64) -> ViTForImageClassification:
    torch.manual_seed(3)
    return ViTForImageClassification(CONFIG).to(dtype)


def arguments(folder: Path, **settings: Any) -> TrainingArguments:
    return TrainingArguments(
        **{
            "output_dir": str(folder),
            "use_cpu": True,
            "per_device_train_batch_size": BATCH,
            "num_train_epochs": 2,
            "optim": "sgd",
            "learning_rate": 0.1,
            "lr_scheduler_type": "constant",
            "max_grad_norm": 0.0,
            "save_strategy": "no",
            "logging_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            **settings,
        }
    )


def by_hand(sizes: list[int], clip: float | None = None) -> Tensor:
    model = trainact.apply(make_model())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        for batch in DataLoader(Digits(), sum(sizes)):
            x, y = batch["pixel_values"].split(sizes), batch["labels"].split(sizes)
            for part_x, part_y in zip(x, y, strict=True):
                loss = model(pixel_values=part_x, labels=part_y).loss
                (loss * len(part_y) / sum(sizes)).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
    return weights(model)


SIZE = BATCH // MICRO_BATCHES
MEANS = {InOrder: [SIZE] * MICRO_BATCHES, DeferredTrainer: [BATCH]}


@pytest.mark.parametrize("clip", [None, 0.2])
@pytest.mark.parametrize("trainer", MEANS)
def test_trainer_is_the_loop(
    trainer: type[Trainer], clip: float | None, tmp_path: Path
) -> None:
    model = make_model()
    settings = arguments(
        tmp_path,
        per_device_train_batch_size=SIZE,
        gradient_accumulation_steps=MICRO_BATCHES,
        max_grad_norm=clip or 0.0,
    )
    trainer(
        model, settings, train_dataset=Digits(), callbacks=[TrActCallback()]
    ).train()
    assert distance(model, by_hand(MEANS[trainer], clip)) < ORACLE_RTOL
    (other,) = [sizes for key, sizes in MEANS.items() if key is not trainer]
    assert distance(model, by_hand(other, clip)) > 1e-5
    assert not model.get_submodule(STEM).tract.is_deferred


def test_the_clip_sees_what_the_step_sees(tmp_path: Path) -> None:
    """What was stepped with has the norm that the clip gave it."""
    norms: list[Tensor] = []

    class Spy(TrainerCallback):
        def on_optimizer_step(self, *_: Any, **kwargs: Any) -> None:
            gradients = [p.grad for p in kwargs["model"].parameters()]
            norms.append(nn.utils.get_total_norm(gradients))

    model = make_model()
    settings = arguments(
        tmp_path,
        per_device_train_batch_size=SIZE,
        gradient_accumulation_steps=MICRO_BATCHES,
        max_grad_norm=1e-3,
    )
    DeferredTrainer(
        model, settings, train_dataset=Digits(), callbacks=[TrActCallback(), Spy()]
    ).train()
    assert len(norms) == 6
    # The clip adds 1e-6 to the norm that it divides by.
    assert torch.stack(norms).tolist() == pytest.approx([1e-3] * 6, rel=1e-4)


def test_model_init_and_add_callback(tmp_path: Path) -> None:
    with_init = InOrder(
        model_init=partial(make_model, torch.float64),
        args=arguments(tmp_path),
        train_dataset=Digits(),
        callbacks=[TrActCallback()],
    )
    with_init.train()
    added = InOrder(make_model(), arguments(tmp_path), train_dataset=Digits())
    added.add_callback(TrActCallback())
    added.train()
    truth = by_hand([BATCH])
    for trainer in (with_init, added):
        assert distance(trainer.model, truth) < ORACLE_RTOL


def test_another_lam_is_refused(tmp_path: Path) -> None:
    model = trainact.apply(make_model(), lam=0.2)
    with pytest.raises(ValueError, match=r"with lam=0\.2, and TrActCallback has lam"):
        Trainer(model, arguments(tmp_path), callbacks=[TrActCallback()])
    Trainer(model, arguments(tmp_path), callbacks=[TrActCallback(lam=0.2)])
    callback = TrActCallback(lam=0.2, relative=True)
    with pytest.raises(ValueError, match="relative=True: give both the same"):
        Trainer(model, arguments(tmp_path), callbacks=[callback])
    fresh = make_model()
    callback = TrActCallback(relative=True)
    Trainer(fresh, arguments(tmp_path), callbacks=[callback])
    assert [layer.relative for layer in trainact.tract_layers(fresh).values()] == [True]


def test_bf16(tmp_path: Path) -> None:
    model = make_model(torch.float32)
    settings = arguments(tmp_path, bf16=True, max_steps=1)
    InOrder(
        model, settings, train_dataset=Digits(), callbacks=[TrActCallback()]
    ).train()
    twin = trainact.apply(make_model(torch.float32))
    before = twin.get_submodule(STEM).weight.detach().clone()
    batch = next(iter(DataLoader(Digits(), BATCH)))
    with torch.autocast("cpu", torch.bfloat16):
        twin(**{**batch, "pixel_values": batch["pixel_values"]}).loss.backward()
    torch.optim.SGD(twin.parameters(), lr=0.1).step()
    moves = [m.get_submodule(STEM).weight.detach() - before for m in (model, twin)]
    assert relative_error(*moves) < low_precision_rtol(torch.bfloat16)
    plain = make_model(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        plain(**batch).loss.backward()
    ordinary = -0.1 * plain.get_submodule(STEM).weight.grad
    assert relative_error(moves[0], ordinary) > 0.1


@pytest.mark.filterwarnings("ignore:mtime may not be reliable")  # Transformers 4
@pytest.mark.parametrize("trainer", MEANS)
def test_resume_is_exact(trainer: type[Trainer], tmp_path: Path) -> None:
    def train(name: str, epochs: int, **resume: Any) -> Tensor:
        # Not a ViT: this Trainer loads only part of its checkpoints (Transformers 5.23
        # saves them under other names than its modules have).
        torch.manual_seed(3)
        model = ConvNextForImageClassification(CONVNEXT).double()
        settings = arguments(
            tmp_path / name,
            num_train_epochs=epochs,
            gradient_accumulation_steps=MICRO_BATCHES,
            save_strategy="epoch",
            optim="adamw_torch",
            save_total_limit=1,
        )
        callback = TrActCallback(layer="convnext.embeddings.patch_embeddings")
        trainer(model, settings, train_dataset=Digits(), callbacks=[callback]).train(
            **resume
        )
        return weights(model)

    whole = train("whole", 4)
    train("half", 2)
    (checkpoint,) = (tmp_path / "half").glob("checkpoint-*")
    resumed = train("resumed", 4, resume_from_checkpoint=str(checkpoint))
    assert torch.equal(resumed, whole)


def test_saved_models_are_plain(tmp_path: Path) -> None:
    model = make_model(torch.float32)
    trainer = InOrder(
        model,
        arguments(tmp_path, bf16=True),
        train_dataset=Digits(),
        callbacks=[TrActCallback()],
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "tract"))
    plain = ViTForImageClassification.from_pretrained(tmp_path / "tract")
    assert not trainact.tract_layers(plain)
    for (name, a), (twin, b) in zip(
        model.state_dict().items(), plain.state_dict().items(), strict=True
    ):
        assert name == twin
        assert torch.equal(a, b)
    config = (tmp_path / "tract" / "config.json").read_text()
    assert json.loads(config)["architectures"] == ["ViTForImageClassification"]
    files = [p for p in (tmp_path / "tract").iterdir() if p.name != "training_args.bin"]
    for file in files:
        assert b"tract" not in file.read_bytes().lower().replace(b"extract", b"")
    make_model(torch.float32).save_pretrained(tmp_path / "plain")
    again = ViTForImageClassification.from_pretrained(tmp_path / "plain")
    trainact.apply(again)
    assert list(again.state_dict()) == list(plain.state_dict())


def test_an_exception_ends_the_deferral(tmp_path: Path) -> None:
    class Failing(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            msg = "stopped"
            raise KeyError(msg)

    model = make_model()
    trainer = DeferredTrainer(
        model,
        arguments(tmp_path),
        train_dataset=Digits(),
        callbacks=[TrActCallback(), Failing()],
    )
    with pytest.raises(KeyError, match="stopped"):
        trainer.train()
    assert not model.get_submodule(STEM).tract.is_deferred


@pytest.mark.parametrize("clip", [None, 0.2])
@pytest.mark.parametrize("deferred", [False, True])
def test_accelerate_is_the_loop(deferred: bool, clip: float | None) -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=MICRO_BATCHES)
    model = trainact.apply(make_model())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer, loader = accelerator.prepare(
        model, optimizer, DataLoader(Digits(), SIZE)
    )

    def train(precondition: Any) -> None:
        for _ in range(2):
            for batch in loader:
                with accelerator.accumulate(model):
                    accelerator.backward(model(**batch).loss)
                    if accelerator.sync_gradients and clip is not None:
                        precondition()
                        accelerator.clip_grad_norm_(model.parameters(), clip)
                    optimizer.step()
                    optimizer.zero_grad()

    if deferred:
        with trainact.deferred(model, optimizer) as step:
            train(step.precondition)
    else:
        train(lambda: None)
    sizes = [BATCH] if deferred else [SIZE] * MICRO_BATCHES
    assert distance(model, by_hand(sizes, clip)) < ORACLE_RTOL


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "trainact.integrations.transformers"
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match="pip install transformers accelerate"):
        importlib.import_module(name)
