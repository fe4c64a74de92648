"""PASCAL VOC2007 as it lies on a disk: trainval to train on, test to test on.

The folder holds ``VOCdevkit/VOC2007`` with ``Annotations``, ``JPEGImages`` and
``ImageSets/Main``. An annotation counts pixels from 1 and gives the first and the last
one of a box. In edges (see `trainact.lab.detection.examples`) its box (xmin, ymin,
xmax, ymax) is therefore (xmin - 1, ymin - 1, xmax, ymax): one pixel wide where xmin is
xmax, and from 0 to W where it spans the image.
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from trainact.lab.detection.examples import Example, Objects, image_size
from trainact.lab.errors import (
    LabError,
    check_regular,
    describe_os_error,
    did_you_mean,
    first_line,
)

CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
_INSIDE = Path("VOCdevkit", "VOC2007")
_TRAIN, _TEST = "trainval", "test"
_CORNERS = ("xmin", "ymin", "xmax", "ymax")

Splits = tuple[tuple[Example, ...], tuple[Example, ...]]


def download(data_dir: Path) -> Splits:
    """Read VOC2007, downloading it into `data_dir` where it is not there yet.

    Args:
        data_dir: root folder of downloads.

    Returns:
        Training and test images.

    Raises:
        LabError: if it cannot be downloaded.
    """
    for split in (_TRAIN, _TEST):
        if _list_file(data_dir, split).is_file():
            continue
        try:
            _open(data_dir, split, download=True)
        except (OSError, RuntimeError, EOFError, tarfile.TarError) as error:
            raise LabError(
                f"cannot download voc2007 ({first_line(error)}): without a network, "
                f"unpack VOC2007's {split} archive so that {data_dir / _INSIDE} is "
                "there, or give voc:PATH"
            ) from error
    return read(data_dir)


def read(root: Path) -> Splits:
    """Read all annotations of VOC2007; images are only looked up.

    Args:
        root: the folder that holds ``VOCdevkit``.

    Returns:
        Training and test images.
    """
    return _read_split(root, _TRAIN), _read_split(root, _TEST)


def _open(root: Path, split: str, *, download: bool = False) -> Any:
    from torchvision.datasets import VOCDetection

    return VOCDetection(str(root), "2007", split, download=download)


def _list_file(root: Path, split: str) -> Path:
    return root / _INSIDE / "ImageSets" / "Main" / f"{split}.txt"


def _read_split(root: Path, split: str) -> tuple[Example, ...]:
    listed = _list_file(root, split)
    if not listed.is_file():
        raise LabError(
            f"{listed} does not exist: voc:PATH is the folder that holds {_INSIDE} "
            "with Annotations, JPEGImages and ImageSets/Main"
        )
    dataset = _open(root, split)
    if not dataset.images:
        raise LabError(f"{listed} lists no images: put the names of some into it")
    pairs = zip(dataset.images, dataset.annotations, strict=True)
    return tuple(_read_one(Path(image), Path(notes)) for image, notes in pairs)


def _read_one(image: Path, annotation: Path) -> Example:
    size = image_size(image)
    entries = _parse(annotation)
    try:
        objects = [_read_object(entry, size) for entry in entries]
    except (KeyError, TypeError, ValueError) as error:
        raise LabError(
            f"annotation {annotation} is not as VOC2007's are ({_what(error)}): repair "
            "it or put it back"
        ) from error
    except LabError as error:
        raise LabError(f"annotation {annotation}: {error}") from error
    return Example(image, _as_arrays(objects))


def _parse(annotation: Path) -> list[dict[str, Any]]:
    from torchvision.datasets import VOCDetection

    check_regular(annotation)
    try:
        root = ElementTree.parse(annotation).getroot()
        return VOCDetection.parse_voc_xml(root)["annotation"]["object"]
    except OSError as error:
        what = describe_os_error(error)
    except ElementTree.ParseError as error:
        what = first_line(error)
    except (KeyError, TypeError):
        what = "it is no annotation"
    raise LabError(
        f"cannot read annotation {annotation} ({what}): repair it or put it back"
    )


def _read_object(
    entry: dict[str, Any], size: tuple[int, int]
) -> tuple[list[float], int, bool]:
    """Edges of the box, label, whether it is difficult."""
    name = entry["name"]
    if name not in CLASSES:
        raise LabError(
            f"class {name!r} is none of VOC2007's{did_you_mean(name, CLASSES)}: rename "
            "or remove the object"
        )
    corners = [float(entry["bndbox"][corner]) for corner in _CORNERS]
    _check_inside(name, corners, size)
    edges = [corners[0] - 1, corners[1] - 1, corners[2], corners[3]]
    return edges, CLASSES.index(name), bool(int(entry.get("difficult", 0)))


def _check_inside(name: str, corners: Sequence[float], size: tuple[int, int]) -> None:
    left, top, right, bottom = corners
    width, height = size
    if not (1 <= left <= right <= width and 1 <= top <= bottom <= height):
        listed = ", ".join(f"{corner:g}" for corner in corners)
        raise LabError(
            f"the box ({listed}) of {name!r} does not lie in the image, whose pixels "
            f"are (1, 1) to ({width}, {height}): correct it"
        )


def _what(error: Exception) -> str:
    missing = isinstance(error, KeyError)
    return f"no {error.args[0]}" if missing else first_line(error)


def _as_arrays(objects: list[tuple[list[float], int, bool]]) -> Objects:
    edges, labels, difficult = zip(*objects, strict=True) if objects else ((), (), ())
    return Objects(
        np.array(edges, dtype=np.float32).reshape(-1, 4),
        np.array(labels, dtype=np.int64),
        np.array(difficult, dtype=np.bool_),
    )
