"""Finished runs as JSON lines: appended whole or not at all, never rewritten."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from trainact.lab.config import RunConfig
from trainact.lab.errors import LabError, describe_os_error

try:
    import fcntl
except ImportError:  # Windows: one writer at a time is then the user's to keep
    fcntl = None

SCHEMA = 1
FILE_NAME = "records.jsonl"


@dataclass(frozen=True)
class Record:
    """One finished run.

    Attributes:
        key: hash of the configuration and the data, see `RunConfig.key`.
        config: what was run.
        accuracy: on the test images after every epoch.
        loss: mean training loss of every epoch; None where it was not finite.
        seconds: training time of every epoch, without the evaluation.
        diverged: whether the loss stopped being finite; the run ends there.
        layers: names of the layers that the method changed.
        num_parameters: of the model.
        data: counts, shape, classes and hash of the data.
        device: name of the hardware.
        threads: of torch on the CPU.
        versions: of the libraries, Python and the platform.
        commit: of trainact's source, or None.
        started: UTC, ISO 8601.
        command: as typed.
        schema: version of these fields.
    """

    key: str
    config: RunConfig
    accuracy: tuple[float, ...]
    loss: tuple[float | None, ...]
    seconds: tuple[float, ...]
    diverged: bool
    layers: tuple[str, ...]
    num_parameters: int
    data: dict[str, Any]
    device: str
    threads: int
    versions: dict[str, str]
    commit: str | None
    started: str
    command: str
    schema: int = field(default=SCHEMA)

    def to_line(self) -> str:
        """Write the record as one line of JSON, newline included.

        Returns:
            The line.
        """
        values = {"schema": self.schema, **asdict(self)}
        return json.dumps(values, allow_nan=False, ensure_ascii=False) + "\n"

    @staticmethod
    def from_line(line: str) -> Record:
        """Read a line that `to_line` wrote.

        Args:
            line: one line of JSON.

        Returns:
            The record.

        Raises:
            ValueError: if the line is not a whole record of this schema.
        """
        try:
            values: dict[str, Any] = json.loads(line)
            if values["schema"] != SCHEMA:
                raise ValueError(f"schema {values['schema']}, expected {SCHEMA}")
            values["config"] = RunConfig.from_json(values["config"])
            for name in ("accuracy", "loss", "seconds", "layers"):
                values[name] = tuple(values[name])
            return Record(**values)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a whole record ({error})") from error


class Line(Protocol):
    """What can be written as one line."""

    def to_line(self) -> str:
        """Write it as one line of JSON, newline included.

        Returns:
            The line.
        """
        ...


LineT = TypeVar("LineT", bound=Line)


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
        payload = record.to_line().encode()
        with self.path.open("ab+", buffering=0) as file, _locked(file.fileno()):
            length = file.seek(0, os.SEEK_END)
            if length and not _ends_with_newline(file.fileno(), length):
                payload = b"\n" + payload  # after a line that a crash cut short
            try:
                _write_whole(file.fileno(), payload)
            except OSError:
                os.ftruncate(file.fileno(), length)
                raise


class RecordFile(LineFile[Record]):
    """The records of a folder.

    Args:
        path: of the file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, Record.from_line)


def _ends_with_newline(descriptor: int, length: int) -> bool:
    os.lseek(descriptor, length - 1, os.SEEK_SET)
    return os.read(descriptor, 1) == b"\n"


def _write_whole(descriptor: int, payload: bytes) -> None:
    written = os.write(descriptor, payload)
    while written < len(payload):  # the disk took a part: ask again to learn why
        written += os.write(descriptor, payload[written:])
    os.fsync(descriptor)


@contextlib.contextmanager
def _locked(descriptor: int) -> Generator[None]:
    """Let one process append at a time, so that truncating cannot hit another's line.

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
