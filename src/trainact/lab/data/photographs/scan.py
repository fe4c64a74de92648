"""Reading through WebDataset shards once, to learn where each image is."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainact.lab.data.folder_listing import PART, SUFFIXES, TEST_NAMES, TRAIN_NAMES
from trainact.lab.data.images import check_labels
from trainact.lab.data.photographs.index import Index, Shard
from trainact.lab.data.photographs.remote import fetch, is_remote, join, local_path
from trainact.lab.errors import LabError, check_regular, describe_os_error, first_line

CLASSES_NAME = "classes.txt"
_LABEL_SUFFIX = "cls"
# Of a label: each below the largest one is a class of its own.
_MOST_DIGITS = 7


def index_shards(
    location: str, report: Callable[[int, int], None], *, is_beside: bool = True
) -> Index:
    """Read all shards of a folder, or of URLs, once.

    Args:
        location: a folder with ``*.tar``, or a URL with braces for many, as WebDataset
            has them: ``https://host/{train-{000000..000123},val-{000000..000006}}.tar``.
        report: called with how many shards were read, of how many.
        is_beside: whether the index will be in the folder of the shards.

    Returns:
        The index. Names are whole paths or URLs where it is not. The classes are the
        lines of ``classes.txt`` in the folder, else numbers.

    Raises:
        LabError: if there are no shards, or one is no shard of labelled images.
    """
    names = _names(location)
    splits: dict[str, list[Shard]] = {"train": [], "test": []}
    for number, name in enumerate(names):
        report(number, len(names))
        split = splits[_split_of(name)]
        if is_remote(name):
            split.append(_scan_remote(name))
            continue
        path = Path(join(location, name))
        split.append(scan(path, name if is_beside else str(path.resolve())))
    report(len(names), len(names))
    train, test = tuple(splits["train"]), tuple(splits["test"])
    if not train or not test:
        raise LabError(
            f"{location} has shards for {'training' if train else 'testing'} only: "
            "others are needed too, and their names must say train, and val or test"
        )
    labels = [np.concatenate([s.labels for s in shards]) for shards in (train, test)]
    classes = _classes(location, int(np.concatenate([[-1], *labels]).max()))
    check_labels(location, classes, training=labels[0], test=labels[1])
    return Index(classes, train, test)


def scan(path: Path, name: str) -> Shard:
    """Read the headers of a shard.

    Args:
        path: of a tar file that is not compressed.
        name: that the index shall have.

    Returns:
        Where its images are, and their labels.

    Raises:
        LabError: if it is no tar file or a sample has no image or no label.
    """
    check_regular(path)
    samples: list[_Sample] = []
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isreg():
                    _add(samples, tar, member)
        num_bytes = path.stat().st_size
    except (tarfile.TarError, EOFError) as error:
        raise LabError(
            f"cannot read shard {path} ({first_line(error)}): give tar files that are "
            "whole and not compressed"
        ) from error
    except OSError as error:
        raise LabError(
            f"cannot read shard {path} ({describe_os_error(error)})"
        ) from error
    rows = [sample.row(name) for sample in samples]
    offsets, sizes, labels = np.array(rows, dtype=np.int64).reshape(-1, 3).T.copy()
    return Shard(name, num_bytes, offsets, sizes, labels)


@dataclass
class _Sample:
    """Files of one key, which follow each other."""

    key: str
    image: tuple[int, int] | None = None
    label: bytes | None = None

    def row(self, shard: str) -> tuple[int, int, int]:
        what = f"sample {self.key!r} of {shard}"
        if self.image is None:
            raise LabError(f"{what} has no image ({', '.join(sorted(SUFFIXES))})")
        if self.label is None:
            raise LabError(f"{what} has no label: it must have a .{_LABEL_SUFFIX} file")
        text = self.label.decode(errors="replace").strip()
        if not text.isdecimal() or len(text) > _MOST_DIGITS:
            raise LabError(
                f"{what} has the label {text[:20]!r}: give a number from 0, of at most "
                f"{_MOST_DIGITS} digits"
            )
        return *self.image, int(text)


def _add(samples: list[_Sample], tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    folder, slash, file = member.name.rpartition("/")
    stem, dot, extension = file.partition(".")
    if not (stem and dot):
        return  # as webdataset does
    key = folder + slash + stem
    if not samples or samples[-1].key != key:
        samples.append(_Sample(key))
    sample, extension = samples[-1], extension.lower()
    if extension == _LABEL_SUFFIX:
        content: Any = tar.extractfile(member)
        sample.label = content.read()
    elif f".{extension.rpartition('.')[2]}" in SUFFIXES:
        if sample.image is not None:
            raise LabError(f"sample {key!r} of {tar.name} has more than one image")
        sample.image = member.offset_data, member.size


def _names(location: str) -> list[str]:
    if is_remote(location):
        from braceexpand import braceexpand

        names = list(braceexpand(location))
        if any(not name.endswith(".tar") for name in names):
            raise LabError(
                f"{location}: what is there cannot be listed, so name the shards, such "
                f"as {location.partition('{')[0].rstrip('/')}"
                "/{train-{000000..000123},val-{000000..000006}}.tar"
            )
        return names
    folder = local_path(location)
    if not folder.is_dir():
        raise LabError(f"{location} is not a folder: give one with .tar files")
    names = sorted(path.name for path in folder.glob("*.tar"))
    if not names:
        raise LabError(f"{location} has no .tar files")
    return names


def _split_of(name: str) -> str:
    found = PART.findall(name.rpartition("/")[2].lower())
    if not found:
        raise LabError(
            f"{name}: a shard's name must say train, or one of {', '.join(TEST_NAMES)}"
        )
    return "train" if found[-1] in TRAIN_NAMES else "test"


def _scan_remote(url: str) -> Shard:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "shard.tar")
        fetch(url, copy)
        return scan(copy, url)


def _classes(location: str, last: int) -> tuple[str, ...]:
    """Names of the classes, the last of which has the label given."""
    if not is_remote(location):
        path = local_path(location) / CLASSES_NAME
        try:
            if path.is_file():
                return tuple(path.read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise LabError(
                f"cannot read {path} ({first_line(error)}): it must be a text in UTF-8 "
                "with the name of a class in each line"
            ) from error
    return tuple(map(str, range(last + 1)))
