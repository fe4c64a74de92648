"""Writing a folder of images as WebDataset shards.

Which image comes into which shard is planned before anything is written, and a shard
gets its name when it is whole. So an interrupted conversion goes on with the first
shard that is not there. The folder is finished when it has an index.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainact.lab.data.folder_listing import list_folder
from trainact.lab.data.images import SPLIT_SEED, stratified_subset
from trainact.lab.data.photographs.folder import FileSource
from trainact.lab.data.photographs.index import INDEX_NAME, Index, Shard
from trainact.lab.data.photographs.scan import CLASSES_NAME, scan
from trainact.lab.errors import LabError, describe_os_error
from trainact.lab.line_file import locked

_PLAN_NAME = ".plan"
_TAR_BLOCK = 512
_STEM_LENGTH = 60
# Of a split, as WebDataset's users name their files.
_FILE_NAMES = {"train": "train-{:06}.tar", "test": "val-{:06}.tar"}

Report = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class PlannedShard:
    """Which images a shard shall have.

    Attributes:
        name: of its file.
        split: ``train`` or ``test``.
        source: of the images.
        images: which of them, int64 [N].
        sizes: of their files, int64 [N].
    """

    name: str
    split: str
    source: FileSource
    images: NDArray[np.int64]
    sizes: NDArray[np.int64]

    @property
    def num_bytes(self) -> int:
        """About as many as the shard will have, and no fewer."""
        # A header, the label and its header, and what fills up the last block.
        return int(self.sizes.sum()) + 4 * _TAR_BLOCK * len(self.sizes) + 2**14

    def is_made(self, shard: Shard) -> bool:
        """Whether a shard has these images.

        Args:
            shard: as it was found.

        Returns:
            True if lengths and labels are the same.
        """
        labels = self.source.labels[self.images]
        return np.array_equal(shard.sizes, self.sizes) and np.array_equal(
            shard.labels, labels
        )


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that will be written.

    Attributes:
        classes: names.
        shards: in order.
        digest: of the files and of how they are divided.
    """

    classes: tuple[str, ...]
    shards: tuple[PlannedShard, ...]
    digest: str


def plan_shards(root: Path, shard_bytes: int, limit: int | None = None) -> Plan:
    """Divide the images of a folder among shards.

    Args:
        root: a folder in the ImageFolder layout, see `list_folder`.
        shard_bytes: of images, after which a shard is full.
        limit: number of training images, chosen with every class keeping its share.

    Returns:
        The plan; nothing is written.
    """
    listing = list_folder(root)
    train = FileSource(root, listing.train_files, listing.train_labels)
    test = FileSource(root, listing.test_files, listing.test_labels)
    kept_N = stratified_subset(train.labels, limit)
    orders = {
        "train": np.random.default_rng(SPLIT_SEED).permutation(kept_N),
        "test": np.arange(len(test)),
    }
    digest = hashlib.blake2b(repr((shard_bytes, limit)).encode(), digest_size=16)
    shards: list[PlannedShard] = []
    for (split, order_N), source in zip(orders.items(), (train, test), strict=True):
        for part in source.identity():
            digest.update(part)
        sizes_N = source.sizes[order_N]
        # Whole shards have been filled before each image.
        before_N = np.cumsum(sizes_N) - sizes_N
        starts = np.flatnonzero(np.diff(before_N // shard_bytes)) + 1
        parts = zip(np.split(order_N, starts), np.split(sizes_N, starts), strict=True)
        shards += [
            PlannedShard(_FILE_NAMES[split].format(number), split, source, *part)
            for number, part in enumerate(parts)
        ]
    return Plan(listing.classes, tuple(shards), digest.hexdigest())


def make_shards(plan: Plan, out: Path, report: Report) -> Index:
    """Write what was planned, or what is still missing of it.

    Args:
        plan: of all shards.
        out: folder for them: a new or empty one, or one where the same was begun.
        report: called with the number of bytes done and of all.

    Returns:
        The index that was written.

    Raises:
        LabError: if the folder has something else in it, or there is no room.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with (out / _PLAN_NAME).open("ab+") as file, locked(file.fileno()):
            file.seek(0)
            _check_folder(plan, out, file.read().decode())
            file.truncate(0)
            file.write(plan.digest.encode())
            file.flush()
            index = _make_all(plan, out, report)
            (out / _PLAN_NAME).unlink(missing_ok=True)
    except OSError as error:
        raise LabError(
            f"cannot write to {out} ({describe_os_error(error)}): make room or give "
            "another --out"
        ) from error
    return index


def _check_folder(plan: Plan, out: Path, begun: str) -> None:
    if (out / INDEX_NAME).exists():
        (out / _PLAN_NAME).unlink(missing_ok=True)
        raise LabError(f"{out} has an index already: give another --out")
    if begun and begun != plan.digest:
        raise LabError(
            f"{out} has a part of other shards, or the images have changed since: "
            "remove it or give another --out"
        )
    others = sorted(path.name for path in out.iterdir() if path.name != _PLAN_NAME)
    if others and not begun:
        (out / _PLAN_NAME).unlink(missing_ok=True)
        raise LabError(f"{out} is not empty ({others[0]}): give a new folder as --out")


def _make_all(plan: Plan, out: Path, report: Report) -> Index:
    total = sum(shard.num_bytes for shard in plan.shards)
    made = {planned.name: _find(planned, out) for planned in plan.shards}
    _check_room(out, sum(p.num_bytes for p in plan.shards if made[p.name] is None))
    splits: dict[str, list[Shard]] = {split: [] for split in _FILE_NAMES}
    done = 0
    for planned in plan.shards:
        shard = made[planned.name] or _make(planned, out)
        splits[planned.split].append(shard)
        done += planned.num_bytes
        report(done, total)
    (out / CLASSES_NAME).write_text("\n".join(plan.classes) + "\n", encoding="utf-8")
    index = Index(plan.classes, tuple(splits["train"]), tuple(splits["test"]))
    index.write(out)
    return index


def _find(planned: PlannedShard, out: Path) -> Shard | None:
    """A shard that was made before; what a crash left in its place does not count."""
    path = out / planned.name
    if not path.exists():
        return None
    try:
        shard = scan(path, planned.name)
    except LabError:
        return None
    return shard if planned.is_made(shard) else None


def _check_room(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out).free
    if needed > free:
        raise LabError(
            f"the shards need {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free "
            f"at {out}: make room, give another --out or a --limit"
        )


def _make(planned: PlannedShard, out: Path) -> Shard:
    part = out / f".{planned.name}.part"
    try:
        _write(planned, part)
        shard = scan(part, planned.name)
        if not planned.is_made(shard):
            raise LabError(
                "the images have changed since they were listed: remove "
                f"{out} and start again"
            )
        part.replace(out / planned.name)
    finally:
        part.unlink(missing_ok=True)
    return shard


def _write(planned: PlannedShard, path: Path) -> None:
    from webdataset.writer import TarWriter

    with path.open("wb") as file, TarWriter(file, encoder=False, mtime=0) as writer:
        for sample in _samples(planned):
            writer.write(sample)


def _samples(planned: PlannedShard) -> Iterator[dict[str, str | bytes]]:
    for image in planned.images.tolist():
        path = Path(planned.source.name(image))
        # A key has no dots, and the format's field for it is short.
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem)[:_STEM_LENGTH]
        extension = path.suffix[1:].lower()
        yield {
            "__key__": f"{image:08}_{stem}",
            "jpg" if extension == "jpeg" else extension: planned.source.encoded(image),
            "cls": str(planned.source.labels[image]).encode(),
        }
