"""Which files of an ImageFolder layout are training and which are test images?"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainact.lab.data.images import stratified_split
from trainact.lab.errors import LabError, describe_os_error, is_utf8
from trainact.lab.records import FILE_NAME

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
)
# What a part of a data set is called, in any case; of several to test on the first.
TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "val", "validation", "valid", "dev", "eval", "testing")
PART = re.compile(rf"(?<![a-z])({'|'.join((*TRAIN_NAMES, *TEST_NAMES))})(?![a-z])")
TEST_FRACTION = 0.2
# A folder with one of these files was written by trainact and holds no images.
_WRITTEN = frozenset((FILE_NAME, "report.json"))


@dataclass(frozen=True)
class Listing:
    """Files with a label each, nothing decoded yet."""

    train_files: tuple[Path, ...]
    train_labels: NDArray[np.int64]
    test_files: tuple[Path, ...]
    test_labels: NDArray[np.int64]
    classes: tuple[str, ...]


def list_folder(root: Path) -> Listing:
    """List a folder of images.

    Two layouts: ``train/<class>/*`` with ``test/`` or ``val/``; or ``<class>/*``, of
    which every fifth image of a class, drawn once and for all, becomes a test image.
    A ``train/`` folder alone is split in the same way. See `TEST_NAMES` for other
    names. Folders that trainact has written are left out.

    Args:
        root: the folder.

    Returns:
        The files and their labels.

    Raises:
        LabError: if the folder is missing or empty, cannot be read, or its classes do
            not fit.
    """
    try:
        return _list(root)
    except OSError as error:
        raise LabError(
            f"cannot use {error.filename or root} ({describe_os_error(error)}): change "
            "its permissions or give another path"
        ) from error


def _list(root: Path) -> Listing:
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise LabError(f"imagefolder {root} {what}: give a folder of class folders")
    folders = _subfolders(root)
    train, test = _part(folders, TRAIN_NAMES), _part(folders, TEST_NAMES)
    if train and test:
        return _list_split(train, test)
    if train and all(folder == train or _is_written(folder) for folder in folders):
        return _split_listing(train)
    return _split_listing(root)


def _part(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    """The folder with the first of some names."""
    for name in names:
        found = [folder for folder in folders if folder.name.lower() == name]
        if len(found) > 1:
            raise LabError(f"{found[0]} and {found[1]} differ in case only: keep one")
        if found:
            return found[0]
    return None


def _list_split(train_root: Path, test_root: Path) -> Listing:
    train, test = _list_classes(train_root), _list_classes(test_root)
    classes = _at_least_two(train_root, train)
    unknown = sorted(set(test) - set(train))
    if unknown:
        raise LabError(
            f"{test_root / unknown[0]} has no counterpart in {train_root}: every test "
            "class needs training images"
        )
    train_files, train_labels = _flatten(train, classes)
    test_files, test_labels = _flatten(test, classes)
    return Listing(train_files, train_labels, test_files, test_labels, classes)


def _split_listing(root: Path) -> Listing:
    members = _list_classes(root)
    classes = _at_least_two(root, members)
    for name, files in members.items():
        if len(files) < 2:
            raise LabError(
                f"{root / name} has one image: a class needs at least two to be split "
                "into training and test images"
            )
    files, labels_N = _flatten(members, classes)
    train_N, test_N = stratified_split(labels_N, TEST_FRACTION)
    return Listing(
        tuple(files[index] for index in train_N),
        labels_N[train_N],
        tuple(files[index] for index in test_N),
        labels_N[test_N],
        classes,
    )


def _subfolders(root: Path) -> list[Path]:
    return [
        Path(entry.path)
        for entry in _entries(root)
        if entry.is_dir() and not entry.name.startswith(".")
    ]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _list_classes(root: Path) -> dict[str, list[Path]]:
    members: dict[str, list[Path]] = {}
    for folder in _subfolders(root):
        files = sorted(_images(folder, (root.resolve(),)))
        if files:
            _check_class(folder, files)
            members[folder.name] = files
        elif not _is_written(folder):
            raise LabError(
                f"{folder} has no images ({', '.join(sorted(SUFFIXES))}): add some or "
                "remove the folder"
            )
    if not members:
        raise LabError(f"{root} has no class folders: expected <class>/<image> in it")
    return members


def _images(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """Images in a folder, which lies in others, and in those below, also by links."""
    here = folder.resolve()
    if any(place.is_relative_to(here) for place in above):
        raise LabError(f"{folder} is a link to a folder that it lies in: remove it")
    entries = _entries(folder)
    if not _WRITTEN.isdisjoint(entry.name for entry in entries):
        return
    for entry in entries:
        path = Path(entry.path)
        if entry.is_dir():
            yield from _images(path, (*above, here))
        elif path.suffix.lower() in SUFFIXES and not entry.name.startswith("."):
            if not entry.is_file():
                raise LabError(
                    f"{path} is a broken link, a pipe or a device: remove it"
                )
            yield path


def _check_class(folder: Path, files: Sequence[Path]) -> None:
    """Refuse a name that no record can hold, and what is a part of a data set."""
    if not is_utf8(folder.name):
        raise LabError(
            f"the name {folder.name!r} in {folder.parent} is not UTF-8: rename it"
        )
    inside = {file.relative_to(folder).parts[0] for file in files}
    has_own = any(file.parent == folder for file in files)
    if not has_own and any(
        PART.search(name.lower()) for name in (folder.name, *inside)
    ):
        raise LabError(
            f"{folder} holds folders, and seems to be a part of a data set and no "
            f"class: name the folder to train on {TRAIN_NAMES[0]} and the one to test "
            f"on one of {', '.join(TEST_NAMES)}"
        )


def _is_written(folder: Path) -> bool:
    return any(not _WRITTEN.isdisjoint(names) for _, _, names in os.walk(folder))


def _at_least_two(root: Path, members: dict[str, list[Path]]) -> tuple[str, ...]:
    if len(members) < 2:
        raise LabError(
            f"{root} has one class only ({next(iter(members))}): a comparison needs "
            "at least two class folders"
        )
    return tuple(sorted(members))


def _flatten(
    members: dict[str, list[Path]], classes: tuple[str, ...]
) -> tuple[tuple[Path, ...], NDArray[np.int64]]:
    pairs = [
        (file, label)
        for label, name in enumerate(classes)
        for file in members.get(name, [])
    ]
    labels = np.array([label for _, label in pairs], dtype=np.int64)
    return tuple(file for file, _ in pairs), labels
