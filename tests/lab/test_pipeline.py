"""Training batches: what decides them, and what Lightning makes of them."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from tests.lab.conftest import CONFIG
from trainact.lab.data import pipeline
from trainact.lab.data.augment import PIPELINES
from trainact.lab.data.batches import Batch, Batches, PlainBatches
from trainact.lab.data.images import ImageData
from trainact.lab.data.pipeline import PipelineName, choose_pipeline, make_batches
from trainact.lab.data.resident import ResidentBatches
from trainact.lab.data.workers import WorkersBatches
from trainact.lab.errors import LabError

CPU = torch.device("cpu")
CUDA = torch.device("cuda")
GIB = 2**30
HEAVY = replace(CONFIG, augment="crop-flip-autoaugment", batch_size=16)
PLAIN = replace(HEAVY, augment="none")
NUM_IMAGES, NUM_TEST = 42, 20


@pytest.fixture(scope="module")
def data() -> ImageData:
    generator = torch.Generator().manual_seed(0)
    shape = (NUM_IMAGES + NUM_TEST, 3, 8, 10)
    images = torch.randint(0, 256, shape, generator=generator).byte()
    labels = torch.arange(len(images)) % 5
    train, test = slice(NUM_IMAGES), slice(NUM_IMAGES, None)
    return ImageData(
        images[train], labels[train], images[test], labels[test], (*"abcde",)
    )


def epoch_of(batches: Batches, epoch: int) -> list[Batch]:
    batches.set_epoch(epoch)
    return list(batches)


def same(first: list[Batch], second: list[Batch]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(
        torch.equal(images, others) and torch.equal(labels, other_labels)
        for (images, labels), (others, other_labels) in pairs
    )


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("name", ["resident", "workers"])
def test_an_epoch_has_every_image_once(
    data: ImageData, name: PipelineName, drop_last: bool
) -> None:
    config = replace(PLAIN, drop_last=drop_last)
    batches = make_batches(config, data, CPU, name)
    assert isinstance(batches, ResidentBatches) == (name == "resident")
    seen = list(batches)
    sizes = [16, 16] if drop_last else [16, 16, 10]
    assert [len(labels) for _, labels in seen] == sizes
    assert len(batches) == len(sizes)
    images, labels = (torch.cat(part) for part in zip(*seen, strict=True))
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    matches = (images[:, None] == data.train_images).flatten(2).all(2)
    which = matches.int().argmax(1)
    assert (matches.sum(1) == 1).all()
    assert len(which.unique()) == sum(sizes)
    assert which.tolist() != sorted(which.tolist())
    assert torch.equal(labels, data.train_labels[which])


@pytest.mark.parametrize("name", ["resident", "workers"])
def test_an_epoch_depends_on_seed_and_number_alone(
    data: ImageData, name: PipelineName
) -> None:
    batches = make_batches(HEAVY, data, CPU, name)
    first, second = epoch_of(batches, 0), epoch_of(batches, 1)
    assert not same(first, second)
    torch.rand(3)
    next(iter(batches))  # an epoch that is left early
    assert same(epoch_of(batches, 0), first)
    other_method = replace(HEAVY, method="tract", lam=0.2, lr=0.7, epochs=9)
    assert same(epoch_of(make_batches(other_method, data, CPU, name), 1), second)
    other_seed = make_batches(replace(HEAVY, seed=1), data, CPU, name)
    assert not same(epoch_of(other_seed, 0), first)


@pytest.mark.parametrize("name", ["resident", "workers"])
def test_every_epoch_and_seed_has_draws_of_its_own(
    data: ImageData, name: PipelineName
) -> None:
    # One image many times, so that the order cannot make the difference.
    copies = data.train_images[:1].expand(NUM_IMAGES, -1, -1, -1)
    alike = replace(data, train_images=copies)
    batches = make_batches(HEAVY, alike, CPU, name)
    other = make_batches(replace(HEAVY, seed=1), alike, CPU, name)
    first = torch.cat([images for images, _ in epoch_of(batches, 0)])
    for different in (epoch_of(batches, 1), epoch_of(other, 0)):
        images = torch.cat([images for images, _ in different])
        assert (images != first).flatten(1).any(1).float().mean() > 0.5


@pytest.mark.parametrize("augment", PIPELINES)
def test_a_resident_epoch_does_not_depend_on_the_chunks(
    data: ImageData, augment: str
) -> None:
    config = replace(HEAVY, augment=augment)
    whole = ResidentBatches(config, data, CPU)
    single = ResidentBatches(config, data, CPU, chunk_bytes=1)
    assert (whole.chunk, single.chunk) == (4096 * 3 * 32 * 32 // 3840, 1)
    assert same(epoch_of(whole, 2), epoch_of(single, 2))


def test_an_epoch_does_not_depend_on_the_number_of_workers(data: ImageData) -> None:
    none, one, two = (
        WorkersBatches(HEAVY, data, CPU, num_workers=number) for number in range(3)
    )
    for epoch in (0, 3):
        assert same(epoch_of(one, epoch), epoch_of(two, epoch))
        assert same(epoch_of(one, epoch), epoch_of(none, epoch))


def test_an_epoch_of_workers_does_not_depend_on_the_size_of_batches(
    data: ImageData,
) -> None:
    small = WorkersBatches(replace(HEAVY, batch_size=5), data, CPU)
    large = WorkersBatches(replace(HEAVY, batch_size=42), data, CPU)
    images = torch.cat([images for images, _ in small])
    assert torch.equal(images, next(iter(large))[0])


def test_both_pipelines_and_all_augmentations_have_one_order(data: ImageData) -> None:
    labels = [
        torch.cat([labels for _, labels in batches])
        for augment in PIPELINES
        for config in [replace(HEAVY, augment=augment, seed=5)]
        for batches in (
            ResidentBatches(config, data, CPU),
            WorkersBatches(config, data, CPU),
        )
    ]
    assert all(torch.equal(each, labels[0]) for each in labels)


@pytest.mark.parametrize("name", ["resident", "workers"])
def test_torchs_own_generator_is_left_alone(
    data: ImageData, name: PipelineName
) -> None:
    state = torch.get_rng_state()
    list(make_batches(HEAVY, data, CPU, name))
    assert torch.equal(torch.get_rng_state(), state)


class Recorder(LightningModule):
    """Keeps every training batch, by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(240, 5)
        self.seen: dict[int, list[Batch]] = {}
        self.num_tested = 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002
        self.seen.setdefault(self.current_epoch, []).append(batch)
        images, labels = batch
        logits = self.layer(images.flatten(1) / 255)
        return nn.functional.cross_entropy(logits, labels)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        self.num_tested += len(batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Save(Callback):
    """Saves once, after the first epoch."""

    def __init__(self, path: Path, hook: str) -> None:
        self.path = path
        setattr(self, hook, self.save)

    def save(self, trainer: Trainer, module: LightningModule) -> None:
        if module.current_epoch == 0:
            trainer.save_checkpoint(self.path)


def fit(
    batches: Batches,
    tests: PlainBatches,
    callback: Callback | None = None,
    resume: Path | None = None,
) -> Recorder:
    torch.manual_seed(0)
    recorder = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        callbacks=callback,
        enable_checkpointing=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(recorder, batches, tests, ckpt_path=resume)
    return recorder


# ModelCheckpoint saves in either of these hooks.
@pytest.mark.parametrize("hook", ["on_train_epoch_end", "on_validation_end"])
@pytest.mark.parametrize("name", ["resident", "workers"])
def test_a_resumed_run_sees_what_an_uninterrupted_one_saw(
    data: ImageData, tmp_path: Path, name: PipelineName, hook: str
) -> None:
    path = tmp_path / "saved.ckpt"
    tests = pipeline.make_test_batches(data, CPU, 8)
    whole = fit(make_batches(HEAVY, data, CPU, name), tests, Save(path, hook))
    assert whole.num_tested == 3 * NUM_TEST
    assert sorted(whole.seen) == [0, 1, 2]
    for epoch, seen in whole.seen.items():
        assert same(seen, epoch_of(make_batches(HEAVY, data, CPU, name), epoch))

    resumed = fit(make_batches(HEAVY, data, CPU, name), tests, resume=path)
    assert sorted(resumed.seen) == [1, 2]
    for epoch, seen in resumed.seen.items():
        assert same(seen, whole.seen[epoch])
    for mine, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_processes_end_with_every_fit(data: ImageData) -> None:
    before = set(multiprocessing.active_children())
    batches = make_batches(HEAVY, data, CPU, "workers")
    first = list(batches)
    assert set(multiprocessing.active_children()) > before
    for _ in range(2):
        recorder = fit(batches, pipeline.make_test_batches(data, CPU, 8))
        assert set(multiprocessing.active_children()) <= before
        assert same(recorder.seen[0], first)


def test_pipelines_are_chosen_by_the_memory_that_is_free(
    data: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = GIB
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 80 * GIB))
    assert choose_pipeline("auto", data, CPU) == "resident"
    assert choose_pipeline("auto", data, torch.device("mps")) == "resident"
    assert choose_pipeline("auto", data, CUDA) == "resident"
    # 2,900 images of 512 x 512 are more than half of what is left beside 1 GiB.
    empty = torch.empty(1, dtype=torch.uint8).expand(2900, 3, 512, 512)
    large = replace(data, train_images=empty)
    free = 4 * GIB
    assert choose_pipeline("auto", large, CUDA) == "workers"
    assert choose_pipeline("resident", large, CUDA) == "resident"
    free = 8 * GIB
    assert choose_pipeline("auto", large, CUDA) == "resident"
    assert choose_pipeline("workers", large, CUDA) == "workers"


def test_test_batches_are_all_images_in_order(data: ImageData) -> None:
    batches = pipeline.make_test_batches(data, CPU, 8)
    assert [len(labels) for _, labels in batches] == [8, 8, 4]
    assert len(batches) == 3
    for _ in range(2):
        images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
        assert torch.equal(images, data.test_images)
        assert torch.equal(labels, data.test_labels)


def test_a_run_without_a_batch_is_refused(data: ImageData) -> None:
    config = replace(PLAIN, batch_size=43)
    assert len(make_batches(config, data, CPU, "resident")) == 1
    with pytest.raises(LabError, match="42 training images are less than one batch"):
        make_batches(replace(config, drop_last=True), data, CPU, "resident")


@pytest.mark.parametrize("name", ["resident", "workers"])
def test_an_unknown_augmentation_is_refused(
    data: ImageData, name: PipelineName
) -> None:
    config = replace(PLAIN, augment="crop-flop")
    with pytest.raises(LabError, match="did you mean 'crop-flip'"):
        make_batches(config, data, CPU, name)


def test_torchvision_is_imported_only_where_it_is_needed() -> None:
    code = (
        "import sys, trainact.lab.data.normalise, trainact.lab.data.pipeline;"
        "sys.exit('torchvision' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
