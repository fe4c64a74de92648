"""Photographs by name: a folder, shards, a published set or a few made-up ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trainact.lab.data.folder_listing import list_folder
from trainact.lab.data.images import check_labels
from trainact.lab.data.photographs.folder import FileSource
from trainact.lab.data.photographs.memory import made_up
from trainact.lab.data.photographs.named import NAMED, Sources, load_named
from trainact.lab.data.photographs.photographs import Corrupt, Photographs
from trainact.lab.data.photographs.shards import ShardSource, read_index
from trainact.lab.data.photographs.transforms import find_test_transform
from trainact.lab.data.smoke import PHOTOGRAPHS_PREFIX
from trainact.lab.errors import LabError, check_positive, did_you_mean

FOLDER_PREFIX = "imagefolder:"
SHARDS_PREFIX = "webdataset:"
# Sets that nobody may hand on, which everyone calls by these names.
_ON_DISK = ("imagenet", "inaturalist", "places", "voc")
_CACHE = "shards"


def load_photographs(
    spec: str,
    data_dir: Path,
    image_size: int,
    augment: str,
    eval_crop: float,
    limit: int | None = None,
    corrupt: Corrupt = "stop",
) -> Photographs:
    """Get ready to read photographs one by one.

    Args:
        spec: ``imagefolder:PATH``; ``webdataset:PATH`` or ``webdataset:URL`` of a
            folder with shards and their index; ``cifar10``, ``cifar100``,
            ``flowers102``, ``stanford-cars``; or ``smoke-photographs:10`` for a few
            made-up ones of 10 classes.
        data_dir: where torchvision's downloads and copies of remote shards go.
        image_size: height and width to bring every image to.
        augment: name in `trainact.lab.data.photographs.AUGMENTATIONS`.
        eval_crop: share of a resized test image's shorter side that is kept.
        limit: number of training images, chosen with every class keeping its share.
        corrupt: what to do about a training image that cannot be decoded: stop, or
            take the next one.

    Returns:
        The photographs, none of them read yet.
    """
    check_positive("--image-size", image_size)
    find_test_transform(augment, image_size, eval_crop)  # refuses what is no setting
    train, test, classes = _open(spec, data_dir)
    check_labels(spec, classes, training=train.labels, test=test.labels)
    photographs = Photographs(
        train, test, classes, image_size, augment, eval_crop, corrupt
    )
    return photographs.limited(limit)


def _open(spec: str, data_dir: Path) -> Sources:
    for prefix, open_it in _BY_PREFIX.items():
        if spec.startswith(prefix):
            return open_it(spec, data_dir)
    if spec in NAMED:
        return load_named(spec, data_dir)
    if spec.startswith(_ON_DISK):
        raise LabError(
            f"{spec} cannot be downloaded: get it from its makers and give --data "
            f"{FOLDER_PREFIX}PATH (train/<class>/* and val/<class>/*) or --data "
            f"{SHARDS_PREFIX}PATH"
        )
    known = [*NAMED, f"{FOLDER_PREFIX}PATH", f"{SHARDS_PREFIX}PATH"]
    raise LabError(
        f"data {spec!r} has no photographs that are known{did_you_mean(spec, known)}: "
        f"give one of {', '.join(known)}"
    )


def _folder(spec: str, data_dir: Path) -> Sources:
    del data_dir  # it is where it is
    root = Path(spec.removeprefix(FOLDER_PREFIX)).expanduser()
    listing = list_folder(root)
    return (
        FileSource(root, listing.train_files, listing.train_labels),
        FileSource(root, listing.test_files, listing.test_labels),
        listing.classes,
    )


def _shards(spec: str, data_dir: Path) -> Sources:
    location = spec.removeprefix(SHARDS_PREFIX)
    index = read_index(location)
    cache = data_dir / _CACHE
    return (
        ShardSource(location, index.train, cache),
        ShardSource(location, index.test, cache),
        index.classes,
    )


def _made_up(spec: str, data_dir: Path) -> Sources:
    del data_dir  # in memory
    return made_up(spec)


_BY_PREFIX: dict[str, Callable[[str, Path], Sources]] = {
    FOLDER_PREFIX: _folder,
    SHARDS_PREFIX: _shards,
    PHOTOGRAPHS_PREFIX: _made_up,
}
