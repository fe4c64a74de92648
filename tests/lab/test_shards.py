"""Shards made of a folder of images.

- They hold the same files and labels, bit for bit; webdataset reads them too.
- An order is that of windows of shards, has every image once and is a function of the
  generator.
- A shard that is missing or was changed stops the run.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from webdataset.tariterators import group_by_keys, tar_file_expander

from tests.lab.photographic import (
    COUNTS,
    NAMES,
    SHARD_BYTES,
    load,
    load_shards,
    make_shards,
)
from trainact.lab.data.images import stratified_subset
from trainact.lab.data.photographs import (
    FileSource,
    ShardSource,
    UnreadableImageError,
    one_line,
    shards,
)
from trainact.lab.data.photographs.index import Shard
from trainact.lab.errors import LabError

NUM_TRAIN = sum(COUNTS["train"])


def numbers(source: ShardSource | FileSource) -> list[int]:
    """Which images of the folder a source of shards has, by the keys."""
    return [int(source.name(index)[:8]) for index in range(len(source))]


def test_the_same_images_and_labels(root: Path, made: Path) -> None:
    folder, data = load(root), load_shards(made)
    assert data.classes == NAMES
    for split, count in COUNTS.items():
        ours = data.train if split == "train" else data.test
        theirs = folder.train if split == "train" else folder.test
        assert isinstance(ours, ShardSource)
        assert isinstance(theirs, FileSource)
        order = numbers(ours)
        assert sorted(order) == list(range(sum(count)))
        for index, number in enumerate(order):
            assert ours.encoded(index) == theirs.encoded(number)
            assert ours.labels[index] == theirs.labels[number]
            assert ours.read(index).tobytes() == theirs.read(number).tobytes()


def test_names_say_which_file_it_was(made: Path) -> None:
    source = load_shards(made).train
    index = numbers(source).index(0)
    assert source.name(index).startswith("00000000_000.png of ")
    assert source.name(index).endswith(".tar")


def read_with_webdataset(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        with path.open("rb") as stream:  # its own opening leaves files open
            files = tar_file_expander([{"url": str(path), "stream": stream}])
            yield from group_by_keys(files)


def test_webdataset_reads_them(root: Path, made: Path) -> None:
    for pattern, split in (("train-*.tar", "train"), ("val-*.tar", "val")):
        theirs = load(root).train if split == "train" else load(root).test
        seen: list[int] = []
        for sample in read_with_webdataset(made.glob(pattern)):
            number = int(sample["__key__"][:8])
            image = sample["jpg"] if "jpg" in sample else sample["png"]
            assert image == theirs.encoded(number)
            assert int(sample["cls"]) == theirs.labels[number]
            seen.append(number)
        assert sorted(seen) == list(range(sum(COUNTS[split])))


def test_training_images_are_mixed_and_shards_are_of_the_size(made: Path) -> None:
    index = json.loads((made / "index.json").read_text())
    assert len(index["train"]) >= 4
    for shard in index["train"]:
        assert shard["bytes"] == (made / shard["name"]).stat().st_size
        assert 0 < sum(shard["sizes"]) < 2 * SHARD_BYTES
    labels = load_shards(made).train.labels
    assert (np.diff(labels) != 0).sum() > len(NAMES)
    assert (made / "classes.txt").read_text().split() == list(NAMES)
    others = {path.name for path in made.iterdir() if path.suffix != ".tar"}
    assert others == {"index.json", "classes.txt"}


def test_a_limit_is_that_of_training(root: Path, tmp_path: Path) -> None:
    assert make_shards(root, tmp_path / "out", "--limit", "6") == 0
    data = load_shards(tmp_path / "out")
    keep = stratified_subset(load(root).train.labels, 6)
    assert sorted(numbers(data.train)) == keep.tolist()
    assert data.num_test == sum(COUNTS["val"])


def test_the_fingerprint_is_that_of_the_index(copy: Path, made: Path) -> None:
    fingerprint = load_shards(made).fingerprint
    assert load_shards(copy).fingerprint == fingerprint
    text = (copy / "index.json").read_text()
    index = json.loads(text)
    index["train"][0]["labels"][0] = (index["train"][0]["labels"][0] + 1) % 3
    (copy / "index.json").write_text(json.dumps(index))
    assert load_shards(copy).fingerprint["hash"] != fingerprint["hash"]


def source_of(counts: list[int]) -> ShardSource:
    made = []
    for number, count in enumerate(counts):
        zeros = np.zeros(count, dtype=np.int64)
        made.append(Shard(f"train-{number}.tar", 1, zeros, zeros, zeros))
    return ShardSource("nowhere", made, Path("unused"))


@given(
    counts=st.lists(st.integers(1, 7), min_size=1, max_size=12), seed=st.integers(0, 99)
)
def test_an_order_is_by_windows(counts: list[int], seed: int) -> None:
    window = 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "WINDOW", window)
        source = source_of(counts)
        order = source.order(torch.Generator().manual_seed(seed))
        again = source_of(counts).order(torch.Generator().manual_seed(seed))
    assert torch.equal(order, again)
    assert sorted(order.tolist()) == list(range(sum(counts)))
    shard_of = np.repeat(np.arange(len(counts)), counts)
    remaining = shard_of[order].tolist()
    while remaining:
        here: list[int] = []
        while remaining and (remaining[0] in here or len(set(here)) < window):
            here.append(remaining.pop(0))
        assert not set(here) & set(remaining), "a window is used up before the next"


def test_an_order_mixes_shards_and_images() -> None:
    source = source_of(200 * [5])
    order = source.order(torch.Generator().manual_seed(0)).tolist()
    first = [index // 5 for index in order[: 5 * shards.WINDOW]]
    assert len(set(first)) == shards.WINDOW
    assert (np.diff(first) != 0).mean() > 0.9, "neighbours are of different shards"
    assert max(first) > 150, "shards are drawn from all"
    other = source.order(torch.Generator().manual_seed(1)).tolist()
    assert order != other


def test_processes_read_shards(made: Path) -> None:
    data = load_shards(made)
    here = [data.test_samples()[index] for index in range(data.num_test)]
    loader = DataLoader(data.test_samples(), 3, num_workers=2)
    images, labels = (torch.cat(part) for part in zip(*loader, strict=True))
    assert torch.equal(images, torch.stack([image for image, _ in here]))
    assert labels.tolist() == [label for _, label in here]
    again: ShardSource = pickle.loads(pickle.dumps(data.test))
    assert again.read(1).tobytes() == data.test.read(1).tobytes()


def test_few_files_stay_open(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_MAX_OPEN", 2)
    source = load_shards(made).train
    first = [source.read(index).tobytes() for index in range(NUM_TRAIN)]
    assert len(source._files._descriptors) == 2
    assert [source.read(index).tobytes() for index in range(NUM_TRAIN)] == first


def damage_gone(shard: Path) -> None:
    shard.unlink()


def damage_short(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-512])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_gone, "No such file or directory"),
        (damage_short, "bytes and .* by its index"),
    ],
)
def test_a_shard_that_is_not_as_it_was(
    copy: Path, damage: Callable[[Path], None], message: str
) -> None:
    data = load_shards(copy, corrupt="skip")
    shard = copy / "train-000001.tar"
    damage(shard)
    first = json.loads((copy / "index.json").read_text())["train"][0]
    samples, index = data.train_samples(), len(first["labels"])
    samples[index - 1, 0]
    with pytest.raises(LabError, match=message) as error:
        samples[index, 0]
    assert str(shard) in str(error.value)
    assert not isinstance(error.value, UnreadableImageError)
    loader = DataLoader(samples, sampler=[(index, 0)], num_workers=1)
    batches = iter(loader)
    with pytest.raises(LabError) as again, one_line():
        next(batches)
    assert str(again.value) == str(error.value)
    batches._shutdown_workers()


def test_a_damaged_image_in_a_shard(copy: Path) -> None:
    data = load_shards(copy)
    assert isinstance(data.train, ShardSource)
    shard = copy / "train-000001.tar"
    entry = json.loads((copy / "index.json").read_text())["train"]
    number, offset = len(entry[0]["labels"]), entry[1]["offsets"][0]
    whole = bytearray(shard.read_bytes())
    whole[offset : offset + 100] = bytes(100)
    shard.write_bytes(whole)
    with pytest.raises(UnreadableImageError) as error:
        data.train_samples()[number, 0]
    assert str(error.value).startswith(
        f"cannot read image {data.train.name(number)} (UnidentifiedImageError)"
    )
    skipping = load_shards(copy, corrupt="skip").train_samples()
    assert torch.equal(skipping[number, 3][0], skipping[number + 1, 3][0])
