"""Which files of an ImageFolder layout are training and which are test images?"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainact.lab.data.images import stratified_split
from trainact.lab.errors import LabError

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
)
TEST_NAMES = ("test", "val")
TEST_FRACTION = 0.2


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
    A ``train/`` folder without ``test/`` or ``val/`` is split in the same way.

    Args:
        root: the folder.

    Returns:
        The files and their labels.

    Raises:
        LabError: if the folder is missing or empty, or its classes do not fit.
    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise LabError(f"imagefolder {root} {what}: give a folder of class folders")
    folders = {path.name for path in _subfolders(root)}
    test_name = next((name for name in TEST_NAMES if name in folders), None)
    if "train" in folders and test_name is not None:
        return _list_split(root / "train", root / test_name)
    alone = folders == {"train"}
    return _split_listing(root / "train" if alone else root)


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
    return sorted(
        path
        for path in root.iterdir()
        if path.is_dir() and not path.name.startswith(".")
    )


def _list_classes(root: Path) -> dict[str, list[Path]]:
    members = {folder.name: _images(folder) for folder in _subfolders(root)}
    if not members:
        raise LabError(f"{root} has no class folders: expected <class>/<image> in it")
    for name, files in members.items():
        if not files:
            raise LabError(
                f"{root / name} has no images ({', '.join(sorted(SUFFIXES))}): add "
                "some or remove the folder"
            )
    return members


def _images(folder: Path) -> list[Path]:
    found = [
        Path(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
    ]
    return sorted(found)


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
