"""A folder of runs: records, epochs, checkpoints and logs, each in its place.

records.jsonl      finished runs, a line each
epochs.jsonl       epochs, a line each, while runs go on
checkpoints/       of runs that are not finished, one each
weights/           of finished runs that other recipes begin with
logs/              for TensorBoard
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path

from trainact.lab.errors import LabError, describe_os_error
from trainact.lab.line_file import LineFile, fcntl
from trainact.lab.records import FILE_NAME, EpochRecord, Record, RecordFile


class Workspace:
    """A folder of runs.

    Args:
        folder: it need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records = RecordFile(folder / FILE_NAME)
        self.epochs = LineFile(folder / "epochs.jsonl", EpochRecord.from_line)
        self.logs = folder / "logs"

    def prepare(self) -> None:
        """Make the folder and check that it can be written to, before any training."""
        self.records.prepare()

    def checkpoint(self, key: str) -> Path:
        """Where the checkpoint of a run lies.

        Args:
            key: of the run.

        Returns:
            A path; the file need not exist.
        """
        return self.folder / "checkpoints" / f"{key}.ckpt"

    def weights(self, key: str) -> Path:
        """Where the trained weights of a run are kept, if they are.

        Args:
            key: of the run.

        Returns:
            A path; the file need not exist.
        """
        return self.folder / "weights" / f"{key}.pt"

    @contextlib.contextmanager
    def claim(self, key: str) -> Generator[bool]:
        """Keep other processes from training the same run at the same time.

        Args:
            key: of the run.

        Yields:
            Whether this process may train it. The system gives the claim up when the
            process ends, however it ends.

        Raises:
            LabError: if the folder cannot be written to.
        """
        path = self.checkpoint(key).with_suffix(".lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("ab")
        except OSError as error:
            raise LabError(
                f"cannot write to {path.parent} ({describe_os_error(error)}): give "
                "another folder with --out"
            ) from error
        with file:
            yield _lock(file.fileno())

    def find(self, key: str) -> Record | None:
        """Look a finished run up.

        Args:
            key: of the run.

        Returns:
            Its record, or None.
        """
        records, _ = self.records.read()
        return next((record for record in records if record.key == key), None)

    def finish(self, record: Record) -> None:
        """Keep the record of a run, then let its checkpoint go.

        Args:
            record: of the run.

        Raises:
            LabError: if the record could not be written; the checkpoint stays.
        """
        try:
            self.records.append(record)
        except OSError as error:
            raise LabError(
                f"the run {record.config.title} could not be saved in "
                f"{self.records.path} ({describe_os_error(error)}): make room and give "
                "the same command again; the runs saved before are kept"
            ) from error
        self.checkpoint(record.key).unlink(missing_ok=True)


def _lock(descriptor: int) -> bool:
    if fcntl is None:
        return True
    try:  # not flock: what a process locks so, its data workers would inherit
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
