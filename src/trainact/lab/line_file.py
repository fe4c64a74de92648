"""JSON lines in a file: appended whole or not at all, never rewritten."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Generator
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, get_type_hints

from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

from trainact.lab.errors import LabError, check_regular, describe_os_error

try:
    import fcntl
except ImportError:  # Windows: one writer at a time is then the user's to keep
    fcntl = None


_ALL = CollectionCheckStrategy.ALL_ITEMS


class JsonLine:
    """Base class of records: a dataclass with a field ``schema``, a line each."""

    def to_line(self) -> str:
        """Write the record as one line of JSON, newline included.

        Returns:
            The line.
        """
        values: Any = self
        ordered = {"schema": values.schema, **asdict(values)}
        return json.dumps(ordered, allow_nan=False, ensure_ascii=False) + "\n"


LineT = TypeVar("LineT", bound=JsonLine)


def read_line(
    line: str, readable: tuple[int, ...], read: Callable[[dict[str, Any]], LineT]
) -> LineT:
    """Read a line that `JsonLine.to_line` wrote.

    Args:
        line: one line of JSON.
        readable: the schemas that are understood.
        read: makes a record of the values.

    Returns:
        The record.

    Raises:
        ValueError: if the line is not a whole record of such a schema.
    """
    try:
        values: dict[str, Any] = json.loads(line)
        if values["schema"] not in readable:
            raise ValueError(f"schema {values['schema']}, expected {readable[-1]}")
        record = read(values)
        _check_types(record)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a whole record ({error})") from error
    return record


_hints = functools.cache(get_type_hints)


def _check_types(record: Any) -> None:
    """Refuse a value of another type than its field's, which a hand may have left."""
    for name, kind in _hints(type(record)).items():
        value = getattr(record, name)
        for part in value if isinstance(value, tuple) else (value,):
            if is_dataclass(part):
                _check_types(part)
        try:
            check_type(value, kind, collection_check_strategy=_ALL)
        except TypeCheckError as error:
            raise TypeError(f"{name}: {error}") from error


class LineFile(Generic[LineT]):
    """Records of one kind in a file.

    Args:
        path: of the file; it need not exist yet.
        from_line: reads a line; raises ValueError if it is not a whole record.
    """

    def __init__(self, path: Path, from_line: Callable[[str], LineT]) -> None:
        self.path = path
        self._from_line = from_line

    def prepare(self) -> None:
        """Make the folder and check that records can be written, before any training.

        Raises:
            LabError: if they cannot.
        """
        check_regular(self.path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab"):
                pass
        except OSError as error:
            raise LabError(
                f"cannot write to {self.path.parent} ({describe_os_error(error)}): "
                "give another folder with --out"
            ) from error

    def read(self) -> tuple[list[LineT], list[str]]:
        """Read all records.

        Returns:
            The records in order, and a warning for each line that is none, such as
            one that a crash cut short.

        Raises:
            LabError: if the file exists and cannot be read.
        """
        check_regular(self.path)
        try:
            text = self.path.read_bytes().decode("utf-8", errors="replace")
        except FileNotFoundError:
            return [], []
        except OSError as error:
            raise LabError(
                f"cannot read {self.path} ({describe_os_error(error)}): move it away "
                "or give another --out"
            ) from error
        records: list[LineT] = []
        warnings: list[str] = []
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                records.append(self._from_line(line))
            except ValueError as error:
                warnings.append(f"{self.path} line {number} ignored: {error}")
        return records, warnings

    def append(self, record: LineT) -> None:
        """Add a record; when that fails, what was in the file stays as it was.

        Args:
            record: a finished run.

        Raises:
            OSError: if the record could not be written whole, such as on a full disk.
        """
        # A name that is not UTF-8 would lose a whole run; JSON reads this escape.
        payload = record.to_line().encode(errors="backslashreplace")
        with self.path.open("ab+", buffering=0) as file, locked(file.fileno()):
            length = file.seek(0, os.SEEK_END)
            if length and not _ends_with_newline(file.fileno(), length):
                payload = b"\n" + payload  # after a line that a crash cut short
            try:
                _write_whole(file.fileno(), payload)
            except OSError:
                os.ftruncate(file.fileno(), length)
                raise


def _ends_with_newline(descriptor: int, length: int) -> bool:
    os.lseek(descriptor, length - 1, os.SEEK_SET)
    return os.read(descriptor, 1) == b"\n"


def _write_whole(descriptor: int, payload: bytes) -> None:
    written = os.write(descriptor, payload)
    while written < len(payload):  # the disk took a part: ask again to learn why
        written += os.write(descriptor, payload[written:])
    os.fsync(descriptor)


@contextlib.contextmanager
def locked(descriptor: int) -> Generator[None]:
    """Let one process on this machine do something at a time, where locks exist.

    Args:
        descriptor: of an open file that all of them use for this.

    Yields:
        Nothing.
    """
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
