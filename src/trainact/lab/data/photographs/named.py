"""Photographs of published sets through torchvision's own dataset classes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trainact.lab.data import torchvision_sets
from trainact.lab.data.photographs.folder import FileSource
from trainact.lab.data.photographs.memory import ArraySource
from trainact.lab.data.photographs.source import Source
from trainact.lab.errors import LabError, first_line
from trainact.lab.line_file import locked

Sources = tuple[Source, Source, tuple[str, ...]]

_CARS = (
    "stanford_cars/ (with cars_train/, cars_test/, cars_test_annos_withlabels.mat, "
    "devkit/cars_meta.mat and devkit/cars_train_annos.mat)"
)


def load_named(name: str, data_dir: Path) -> Sources:
    """Open a set, downloading it into `data_dir` where that is possible.

    Args:
        name: a key of `NAMED`.
        data_dir: root folder of downloads.

    Returns:
        Images to train on, images to test on, and the classes.

    """
    with contextlib.ExitStack() as stack:
        # One of several processes downloads. Where none can write, none does.
        with contextlib.suppress(OSError):
            data_dir.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((data_dir / ".download.lock").open("ab"))
            stack.enter_context(locked(file.fileno()))
        return NAMED[name](name, data_dir)


def _cifar(name: str, data_dir: Path) -> Sources:
    data = torchvision_sets.load(name, data_dir)
    train = ArraySource(
        f"{name}'s training images", data.train_images, data.train_labels.numpy()
    )
    test = ArraySource(
        f"{name}'s test images", data.test_images, data.test_labels.numpy()
    )
    return train, test, data.classes


def _flowers102(name: str, data_dir: Path) -> Sources:
    train, val, test = (
        _open_flowers(name, data_dir, split) for split in ("train", "val", "test")
    )
    root = data_dir / "flowers-102"
    sources = (
        _files(
            root, [*train._image_files, *val._image_files], train._labels + val._labels
        ),
        _files(root, test._image_files, test._labels),
    )
    return *sources, tuple(test.classes)


def _open_flowers(name: str, data_dir: Path, split: str) -> Any:
    from torchvision.datasets import Flowers102

    make = partial(Flowers102, data_dir, split)
    root, files = data_dir / "flowers-102", "(with jpg/, imagelabels.mat and setid.mat)"
    return torchvision_sets.open_set(make, name, root, f"{root} {files}")


def _stanford_cars(name: str, data_dir: Path) -> Sources:
    from torchvision.datasets import StanfordCars

    try:
        train: Any = StanfordCars(data_dir, "train")
        test: Any = StanfordCars(data_dir, "test")
    except Exception as error:  # scipy raises many types on damaged files
        raise LabError(
            f"cannot read {name} ({first_line(error)}): it can no longer be "
            f"downloaded from its makers, so put it at {data_dir / _CARS}"
        ) from error
    root, classes = data_dir / "stanford_cars", tuple(map(str, train.classes))
    return _of_samples(root, train), _of_samples(root, test), classes


def _of_samples(root: Path, dataset: Any) -> FileSource:
    return _files(root, *zip(*dataset._samples, strict=True))


def _files(root: Path, files: Sequence[Any], labels: Sequence[int]) -> FileSource:
    paths = [Path(file) for file in files]
    return FileSource(root, paths, np.array(labels, dtype=np.int64))


NAMED: dict[str, Callable[[str, Path], Sources]] = {
    "cifar10": _cifar,
    "cifar100": _cifar,
    "flowers102": _flowers102,
    "stanford-cars": _stanford_cars,
}
