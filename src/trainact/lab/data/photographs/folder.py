"""Photographs in files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainact.lab.data.photographs.source import EncodedSource
from trainact.lab.errors import LabError, describe_os_error

# A network file system answers many at a time.
_NUM_THREADS = 16
_CHUNK = 4096


class Strings:
    """Many strings in one piece of memory.

    A list of a million paths would be copied to every worker process page by page, as
    each process counts its references in them.

    Args:
        strings: names of files.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        encoded = [os.fsencode(string) for string in strings]
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        self._bytes = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        start, end = self._ends[index], self._ends[index + 1]
        return os.fsdecode(self._bytes[start:end])

    def parts(self) -> tuple[bytes, bytes]:
        """All that there is.

        Returns:
            The encoded strings one after the other, and where they end.
        """
        return self._bytes, self._ends.tobytes()


class FileSource(EncodedSource):
    """Images in files.

    Args:
        root: folder that the images belong to; where it is does not identify them.
        files: below it.
        labels_N: a label for each.
    """

    def __init__(
        self, root: Path, files: Sequence[Path], labels_N: NDArray[np.int64]
    ) -> None:
        # The path of what is below Path(".") does not begin with a dot.
        self._root = "" if root == Path() else f"{root}{os.sep}"
        self._names = Strings(str(file).removeprefix(self._root) for file in files)
        self.labels = labels_N

    def encoded(self, index: int) -> bytes:
        """Read a file.

        Args:
            index: of the image.

        Returns:
            What is in it.

        Raises:
            LabError: if it cannot be read.
        """
        name = self.name(index)
        try:
            with open(name, "rb") as file:  # noqa: PTH123 - a third of the time
                return file.read()
        except OSError as error:
            raise LabError(_missing(name, error)) from error

    def name(self, index: int) -> str:
        """Give the path of an image."""
        return self._root + self._names[index]

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Bytes of each file, int64 [N]: all are asked for, and none is opened."""
        starts = range(0, len(self), _CHUNK)
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            parts = list(pool.map(self._sizes_from, starts))
        return np.concatenate(parts)

    def identity(self) -> Iterator[bytes]:
        """List names below the root, lengths and labels; no file is read."""
        yield from self._names.parts()
        yield self.sizes.tobytes()
        yield self.labels.tobytes()

    def _sizes_from(self, start: int) -> NDArray[np.int64]:
        stop = min(len(self), start + _CHUNK)
        return np.array([self._size(i) for i in range(start, stop)], dtype=np.int64)

    def _size(self, index: int) -> int:
        name = self.name(index)
        try:
            return os.stat(name).st_size  # noqa: PTH116 - a million times
        except OSError as error:
            raise LabError(_missing(name, error)) from error


def _missing(name: str, error: OSError) -> str:
    return (
        f"cannot read {name} ({describe_os_error(error)}): it was there when the "
        "images were listed; put it back or start again"
    )
