"""Batches of images with boxes: order and mirroring come from seed and epoch alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.lab.conftest import CONFIG
from trainact.lab.data.batches import Share
from trainact.lab.data.photographs import one_line
from trainact.lab.detection import voc
from trainact.lab.detection.batches import (
    DetectionBatch,
    DetectionBatches,
    DetectionTestBatches,
)
from trainact.lab.detection.data import DetectionData
from trainact.lab.detection.examples import Example, Objects
from trainact.lab.errors import LabError

CPU = torch.device("cpu")
FLIP = replace(CONFIG, task="detection", augment="flip", batch_size=4)
NUM_TRAIN, NUM_TEST = 22, 5


def made_up(number: int, width: int) -> Example:
    """An image of a size of its own, with one easy and one difficult object."""
    generator = np.random.default_rng(number)
    image = generator.integers(0, 256, (3, 6, width), dtype=np.uint8)
    boxes = np.array([[0, 1, 3, 4], [2, 2, width, 6]], dtype=np.float32)
    labels = np.array([number % 20, 19], dtype=np.int64)
    return Example(image, Objects(boxes, labels, np.array([False, True])))


@pytest.fixture(scope="module")
def data() -> DetectionData:
    train = tuple(made_up(number, 7 + number % 3) for number in range(NUM_TRAIN))
    test = tuple(made_up(number, 9) for number in range(100, 100 + NUM_TEST))
    return DetectionData(train, test, voc.CLASSES, 64)


def epoch_of(batches: DetectionBatches, epoch: int = 0) -> list[DetectionBatch]:
    batches.set_epoch(epoch)
    return list(batches)


def flat(batches: list[DetectionBatch]) -> list[tuple[Tensor, dict[str, Tensor]]]:
    return [
        pair
        for images, targets in batches
        for pair in zip(images, targets, strict=True)
    ]


def same(first: list[DetectionBatch], second: list[DetectionBatch]) -> bool:
    pairs = zip(flat(first), flat(second), strict=True)
    return all(
        torch.equal(image, other)
        and all(torch.equal(target[name], others[name]) for name in target)
        for (image, target), (other, others) in pairs
    )


def test_an_epoch_has_every_image_once_without_difficult_objects(
    data: DetectionData,
) -> None:
    batches = DetectionBatches(FLIP, data, CPU)
    seen = epoch_of(batches)
    assert len(seen) == len(batches) == 6
    assert [len(images) for images, _ in seen] == [4, 4, 4, 4, 4, 2]
    numbers = [int(target["image"]) for _, target in flat(seen)]
    assert sorted(numbers) == list(range(NUM_TRAIN)) != numbers
    for image, target in flat(seen):
        number = int(target["image"])
        original = data.train[number].read()
        width = original.shape[2]
        assert target["labels"].tolist() == [number % 20]
        assert target["labels"].dtype == torch.int64
        assert target["boxes"].dtype == torch.float32
        if torch.equal(image, original):
            assert target["boxes"].tolist() == [[0, 1, 3, 4]]
        else:
            assert torch.equal(image, original.flip(2))
            assert target["boxes"].tolist() == [[width - 3, 1, width, 4]]


def mirrored(data: DetectionData, seen: list[DetectionBatch]) -> dict[int, bool]:
    return {
        int(target["image"]): not torch.equal(
            image, data.train[int(target["image"])].read()
        )
        for image, target in flat(seen)
    }


def test_half_of_the_images_are_mirrored_anew_in_each_epoch(
    data: DetectionData,
) -> None:
    batches = DetectionBatches(FLIP, data, CPU)
    epochs = [mirrored(data, epoch_of(batches, epoch)) for epoch in range(40)]
    share = np.mean([list(epoch.values()) for epoch in epochs])
    # Four standard deviations of that many coins.
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(40 * NUM_TRAIN)
    assert epochs[0] != epochs[1]


def test_none_is_mirrored_where_the_setting_says_so(data: DetectionData) -> None:
    batches = DetectionBatches(replace(FLIP, augment="none"), data, CPU)
    assert not any(mirrored(data, epoch_of(batches)).values())


def test_seed_and_epoch_decide_and_nothing_else(data: DetectionData) -> None:
    batches = DetectionBatches(FLIP, data, CPU)
    first, second = epoch_of(batches, 0), epoch_of(batches, 1)
    assert not same(first, second)
    torch.manual_seed(7)
    again = DetectionBatches(replace(FLIP, method="tract", lam=0.1), data, CPU)
    assert same(epoch_of(again, 1), second)
    assert same(epoch_of(batches, 0), first)
    assert not same(epoch_of(DetectionBatches(replace(FLIP, seed=1), data, CPU)), first)


@pytest.mark.parametrize(("num_ranks", "pieces"), [(2, 1), (1, 2), (2, 2)])
def test_processes_and_pieces_share_the_same_batches(
    data: DetectionData, num_ranks: int, pieces: int
) -> None:
    config = replace(FLIP, batch_size=5, drop_last=True)
    whole = epoch_of(DetectionBatches(config, data, CPU), 3)
    parts = [
        epoch_of(DetectionBatches(config, data, CPU, Share(r, num_ranks, pieces)), 3)
        for r in range(num_ranks)
    ]
    assert all(len(part) == len(whole) * pieces for part in parts)
    together: list[DetectionBatch] = []
    for step in range(len(whole)):
        for part in parts:
            together += part[step * pieces : (step + 1) * pieces]
    assert same(together, whole)


def test_an_epoch_goes_on_where_a_checkpoint_was(data: DetectionData) -> None:
    batches = DetectionBatches(FLIP, data, CPU)
    whole = epoch_of(batches, 2)
    taken = iter(batches)
    next(taken), next(taken)
    state = batches.state_dict()
    resumed = DetectionBatches(FLIP, data, CPU)
    resumed.load_state_dict(state)
    assert same(epoch_of(resumed, 2), whole[2:])
    assert same(epoch_of(resumed, 2), whole)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_test_batches_are_in_order_with_difficult_objects(
    data: DetectionData, num_ranks: int
) -> None:
    numbers: list[int] = []
    for rank in range(num_ranks):
        batches = DetectionTestBatches(data, CPU, 2, Share(rank, num_ranks))
        seen = list(batches)
        assert len(seen) == len(batches) == (3 if num_ranks == 1 else 2 - rank)
        assert same(list(batches), seen)
        for image, target in flat(seen):
            number = int(target["image"])
            numbers.append(number)
            assert torch.equal(image, data.test[number].read())
            assert target["labels"].tolist() == [number % 20, 19]
            assert target["difficult"].tolist() == [False, True]
    assert sorted(numbers) == list(range(NUM_TEST))


def test_other_augmentations_are_refused(data: DetectionData) -> None:
    with pytest.raises(LabError, match="augmentation 'crop-flip' is not for images"):
        DetectionBatches(replace(FLIP, augment="crop-flip"), data, CPU)


@pytest.fixture
def on_disk(data: DetectionData, tmp_path: Path) -> DetectionData:
    train: list[Example] = []
    for number, example in enumerate(data.train):
        file = tmp_path / f"{number}.png"
        Image.fromarray(example.read().permute(1, 2, 0).numpy()).save(file)
        train.append(Example(file, example.objects))
    return replace(data, train=tuple(train), test=tuple(train[:3]))


def test_worker_processes_make_the_same_batches(
    data: DetectionData, on_disk: DetectionData
) -> None:
    expected = epoch_of(DetectionBatches(FLIP, data, CPU))
    batches = DetectionBatches(FLIP, on_disk, CPU, num_workers=1)
    assert same(epoch_of(batches), expected)


def test_a_damaged_image_is_one_line_also_from_a_worker_process(
    on_disk: DetectionData,
) -> None:
    file: Any = on_disk.test[1].image
    file.write_bytes(file.read_bytes()[:60])
    batches = DetectionTestBatches(on_disk, CPU, 1, num_workers=1)
    with pytest.raises(LabError) as caught, one_line():
        list(batches)
    assert str(caught.value).startswith(f"cannot read image {file} (")
    assert "\n" not in str(caught.value)
