"""What happens where an image is missing or is none."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tests.lab.photographic import COUNTS, load, write_photographs
from trainact.lab.data.photographs import UnreadableImageError, one_line
from trainact.lab.errors import LabError

NUM_TRAIN = sum(COUNTS["train"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_photographs(tmp_path / "photographs")


def spoil(root: Path, *numbers: int, split: str = "train") -> list[Path]:
    """Cut images short, by their number in the split."""
    files = sorted((root / split).rglob("*.*"))
    for number in numbers:
        data = files[number].read_bytes()
        files[number].write_bytes(data[: len(data) // 2])
    return [files[number] for number in numbers]


def read(loader: DataLoader[Any]) -> None:
    batches = iter(loader)
    try:
        with one_line():
            list(batches)
    finally:  # else the garbage collector does it, which waits
        batches._shutdown_workers()


def test_a_damaged_training_image_stops_the_run(root: Path) -> None:
    (bad,) = spoil(root, 4)
    samples = load(root).train_samples()
    with pytest.raises(UnreadableImageError) as error:
        samples[4, 0]
    assert str(error.value) == (
        f"cannot read image {bad} (OSError): repair or remove it, or go on with "
        "--corrupt skip"
    )
    samples[5, 0]


def test_text_is_no_image(root: Path) -> None:
    first = root / "train" / "bee" / "000.JPEG"
    first.write_text("an error page")
    with pytest.raises(UnreadableImageError, match=r"000\.JPEG \(UnidentifiedImage"):
        load(root).train_samples()[COUNTS["train"][0], 0]


def test_the_next_image_takes_its_place(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(root, 5, 6, NUM_TRAIN - 1)
    data = load(root, corrupt="skip")
    samples = data.train_samples()
    with caplog.at_level(logging.WARNING, "trainact.lab"):
        for index, place in ((5, 7), (6, 7), (NUM_TRAIN - 1, 0), (5, 7)):
            image, label = samples[index, 11]
            expected, own_label = samples[place, 11]
            assert torch.equal(image, expected)
            assert label == own_label == data.train.labels[place]
    assert len(caplog.messages) == 3, "once for each image"
    assert data.train.name(5) in caplog.messages[0]
    assert "takes its place" in caplog.messages[0]
    assert data.train.labels[5] != data.train.labels[7], "the label comes along"
    assert len(data.sample(1000)) == NUM_TRAIN


def test_skipping_goes_on_within_a_subset(root: Path) -> None:
    data = load(root, limit=9, corrupt="skip")
    Path(data.train.name(8)).write_bytes(b"")
    samples = data.train_samples()
    assert torch.equal(samples[8, 1][0], samples[0, 1][0])


def test_where_none_is_left(root: Path) -> None:
    spoil(root, *range(NUM_TRAIN))
    with pytest.raises(LabError, match="none of the 18 training images"):
        load(root, corrupt="skip").train_samples()[3, 0]


def test_a_damaged_test_image_always_stops_the_run(root: Path) -> None:
    (bad,) = spoil(root, 2, split="val")
    samples = load(root, corrupt="skip").test_samples()
    with pytest.raises(UnreadableImageError) as error:
        samples[2]
    assert str(error.value) == (
        f"cannot read image {bad} (OSError): repair or remove it"
    )


@pytest.mark.parametrize("corrupt", ["stop", "skip"])
def test_a_missing_image_always_stops_the_run(root: Path, corrupt: str) -> None:
    data = load(root, corrupt=corrupt)
    gone = Path(data.train.name(3))
    gone.unlink()
    for act in (lambda: data.train_samples()[3, 0], lambda: data.fingerprint):
        with pytest.raises(LabError) as error:
            act()
        assert str(error.value).startswith(
            f"cannot read {gone} (No such file or directory)"
        )


def test_a_folder_in_place_of_an_image(root: Path) -> None:
    data = load(root)
    place = Path(data.train.name(3))
    place.unlink()
    place.mkdir()
    with pytest.raises(LabError, match="Is a directory"):
        data.train_samples()[3, 0]
    shutil.rmtree(place)


def test_what_stops_a_process_arrives_as_one_line(root: Path) -> None:
    (bad,) = spoil(root, 1, split="val")
    with pytest.raises(UnreadableImageError) as error:
        read(DataLoader(load(root).test_samples(), 2, num_workers=1))
    assert str(error.value) == (
        f"cannot read image {bad} (OSError): repair or remove it"
    )


def test_a_missing_file_in_a_process(root: Path) -> None:
    data = load(root)
    gone = Path(data.train.name(0))
    gone.unlink()
    loader = DataLoader(
        data.train_samples(),
        batch_sampler=[[(0, 1)]],
        num_workers=1,
    )
    with pytest.raises(LabError) as error:
        read(loader)
    assert type(error.value) is LabError
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"cannot read {gone} (No such file")


class Dying(Dataset[Tensor]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError(index)


def test_a_process_that_was_ended() -> None:
    with pytest.raises(LabError) as error:
        read(DataLoader(Dying(), num_workers=1))
    assert str(error.value).startswith("a process that reads images was ended (")
    assert "\n" not in str(error.value)


def test_other_errors_pass() -> None:
    for error in (ValueError("a\nb"), RuntimeError("a\nb"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as raised, one_line():
            raise error
        assert raised.value is error
    plain = LabError("one line")
    with pytest.raises(LabError) as raised, one_line():
        raise plain
    assert raised.value is plain
