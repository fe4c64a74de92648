"""Shards of made-up pets, as others write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from webdataset.writer import TarWriter

from tests.lab.photographic import draw, encode, load
from trainact import cli

Sample = dict[str, Any]


def sample(number: int, label: int | str, **more: Any) -> Sample:
    """A sample as others write them: a key with a folder, files beside the image."""
    return {
        "__key__": f"some.folder/{number:04}",
        "jpg": encode(draw(number)),
        "cls": str(label),
        "json": {"number": number},
        **more,
    }


def write_shard(path: Path, samples: Sequence[Sample], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file, TarWriter(file, **options) as writer:
        for each in samples:
            writer.write(each)
    return path


def write_pets(root: Path) -> Path:
    """Four shards, one of them empty."""
    write_shard(root / "pets-train-0000.tar", [sample(0, 2), sample(1, 0)])
    write_shard(root / "pets-train-0001.tar", [])
    write_shard(
        root / "pets-train-0002.tar", [sample(3, 1), sample(4, 2), sample(5, 0)]
    )
    write_shard(root / "pets-validation-00.tar", [sample(6, 1), sample(7, 0)])
    return root


def index_shards(*arguments: str | Path) -> int:
    """Run `trainact shards index`."""
    return cli.main(["shards", "index", *map(str, arguments)])


def check_pets(spec: str, data_dir: Path = Path("unused")) -> None:
    """That a specification gives the pets."""
    data = load(spec, data_dir=data_dir)
    assert data.train.labels.tolist() == [2, 0, 1, 2, 0]
    assert data.test.labels.tolist() == [1, 0]
    for place, number in enumerate((0, 1, 3, 4, 5)):
        assert data.train.encoded(place) == encode(draw(number))
    assert data.test.read(1).size == draw(7).size
    assert data.train.name(0).startswith("some.folder/0000.jpg of ")
    assert data.classes == ("0", "1", "2")
