"""Photographs in WebDataset shards: random access by an index, an order by windows."""

from __future__ import annotations

import os
import tarfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainact.lab.data.photographs.index import INDEX_NAME, Index, Shard
from trainact.lab.data.photographs.remote import (
    blocks,
    cached_name,
    fetch,
    is_remote,
    join,
    local_path,
)
from trainact.lab.data.photographs.source import EncodedSource
from trainact.lab.errors import LabError, check_regular, describe_os_error

WINDOW = 64
_MAX_OPEN = 128
_TAR_BLOCK = 512


class ShardSource(EncodedSource):
    """Images in tar files, which other readers of WebDataset can read too.

    Args:
        location: folder of the shards, a path or URL.
        shards: of the index.
        cache: folder for copies of remote shards. A shard is fetched whole when the
            first image of it is wanted, once for all processes that share the folder.
    """

    def __init__(self, location: str, shards: Sequence[Shard], cache: Path) -> None:
        self._places = tuple(join(location, shard.name) for shard in shards)
        self._cache = cache
        self._lengths = [shard.num_bytes for shard in shards]
        # Images of shard s are those from _starts[s] to _starts[s + 1].
        counts = [len(shard.labels) for shard in shards]
        self._starts = np.cumsum([0, *counts], dtype=np.int64)
        self._offsets = np.concatenate([shard.offsets for shard in shards])
        self._sizes = np.concatenate([shard.sizes for shard in shards])
        self.labels = np.concatenate([shard.labels for shard in shards])
        self._files = _OpenFiles()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": _OpenFiles()}

    def encoded(self, index: int) -> bytes:
        """Read an image from its shard.

        Args:
            index: of the image.

        Returns:
            The bytes of its file.
        """
        return self._read(index, int(self._offsets[index]), int(self._sizes[index]))

    def name(self, index: int) -> str:
        """Give the place of a shard and the name that the image has in it."""
        offset = int(self._offsets[index]) - _TAR_BLOCK
        header = self._read(index, offset, _TAR_BLOCK)
        try:
            member = tarfile.TarInfo.frombuf(header, "utf-8", "replace").name
        except tarfile.HeaderError:
            member = f"at byte {offset}"
        return f"{member} of {self._places[self._shard_of(index)]}"

    def identity(self) -> Iterator[bytes]:
        """List what the index says, without where the shards are; no shard is read."""
        names = [place.rpartition("/")[2] for place in self._places]
        yield repr([*zip(names, self._lengths, strict=True)]).encode()
        for part in (self._starts, self._offsets, self._sizes, self.labels):
            yield part.tobytes()

    def order(self, generator: torch.Generator) -> Tensor:
        """Shuffle the shards, then the images of every 64 shards that follow.

        So a machine reads from few shards at a time, and fetches them in turn. It is as
        good as a whole shuffle where the shards were filled in a random order, as
        `trainact shards make` does.

        Args:
            generator: all that decides about the order.

        Returns:
            Indices int64 [N], each once.
        """
        starts = self._starts.tolist()
        ordered: list[Tensor] = [torch.empty(0, dtype=torch.int64)]
        shards = torch.randperm(len(self._places), generator=generator)
        for window in shards.split(WINDOW):
            parts = [torch.arange(starts[s], starts[s + 1]) for s in window.tolist()]
            images = torch.cat(parts)
            ordered.append(images[torch.randperm(len(images), generator=generator)])
        return torch.cat(ordered)

    def _shard_of(self, index: int) -> int:
        return int(np.searchsorted(self._starts, index, side="right")) - 1

    def _read(self, index: int, offset: int, size: int) -> bytes:
        shard = self._shard_of(index)
        place = self._places[shard]
        try:
            descriptor = self._files.get(shard)
            if descriptor is None:
                descriptor = self._open(shard)
            data = os.pread(descriptor, size, offset)
        except OSError as error:
            raise LabError(
                f"cannot read shard {place} ({describe_os_error(error)}): put it back"
            ) from error
        if len(data) != size:
            raise LabError(f"shard {place} ends early: it was changed while in use")
        return data

    def _open(self, shard: int) -> int:
        place, length = self._places[shard], self._lengths[shard]
        path = Path(place)
        if is_remote(place):
            path = self._cache / cached_name(place)
            if not path.exists():
                fetch(place, path, length)
        elif place.startswith("file:"):
            path = local_path(place)
        actual = path.stat().st_size
        if actual != length:
            raise LabError(
                f"shard {path} has {actual} bytes and {length} by its index: copy it "
                "again, or remove the index and write it again"
            )
        return self._files.open(shard, path)


class _OpenFiles:
    """Files that stay open as long as there are not too many."""

    def __init__(self) -> None:
        self._descriptors: OrderedDict[int, int] = OrderedDict()

    def get(self, key: int) -> int | None:
        if key in self._descriptors:
            self._descriptors.move_to_end(key)
        return self._descriptors.get(key)

    def open(self, key: int, path: Path) -> int:
        descriptor = os.open(path, os.O_RDONLY)
        self._descriptors[key] = descriptor
        if len(self._descriptors) > _MAX_OPEN:
            _, oldest = self._descriptors.popitem(last=False)
            os.close(oldest)
        return descriptor

    def __del__(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)


def read_index(location: str) -> Index:
    """Read the index of a folder of shards.

    Args:
        location: a path or URL.

    Returns:
        The index.

    Raises:
        LabError: if there is none, or it cannot be read.
    """
    if is_remote(location):
        url = join(location, INDEX_NAME)
        return Index.parse(b"".join(blocks(url)), url)
    folder = local_path(location)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise LabError(f"webdataset {location} {what}: give a folder of shards")
    path = folder / INDEX_NAME
    check_regular(path)
    try:
        return Index.parse(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise LabError(
            f"{location} has no {INDEX_NAME}: write one with "
            f"`trainact shards index {location}`"
        ) from None
    except OSError as error:
        raise LabError(f"cannot read {path} ({describe_os_error(error)})") from error
