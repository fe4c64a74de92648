"""Find the records of folders and files, and keep those that make sense."""

from __future__ import annotations

import errno
import os
from collections.abc import Hashable, Sequence
from pathlib import Path

from trainact.lab.environment import hide_home
from trainact.lab.errors import LabError
from trainact.lab.records import FILE_NAME, Record, RecordFile


def read_runs(paths: Sequence[Path]) -> tuple[list[Record], list[str]]:
    """Read all records below some paths.

    Args:
        paths: folders or files.

    Returns:
        The records, those with a key that was seen before left out, and a warning for
        each line that is none.

    Raises:
        LabError: if a path holds no file of records, or no record is whole.
    """
    if not paths:
        raise LabError(
            f"RUNS is missing: give a folder with {FILE_NAME}, such as runs/compare"
        )
    found = {file.resolve(): file for path in paths for file in find_files(path)}
    by_key: dict[str, Record] = {}
    warnings: list[str] = []
    for file in found.values():
        records, ignored = RecordFile(file).read()
        warnings += map(hide_home, ignored)
        for record in records:
            by_key.setdefault(record.key, record)
    _leave_out_old_code(by_key, warnings)
    if not by_key:
        reason = f"; the first of {len(warnings)}: {warnings[0]}" if warnings else ""
        places = ", ".join(hide_home(str(path)) for path in paths)
        raise LabError(f"no finished run in {places}: train something first{reason}")
    return list(by_key.values()), warnings


def _leave_out_old_code(by_key: dict[str, Record], warnings: list[str]) -> None:
    """Keep runs of one code for each method, the code that was started last."""
    last: dict[Hashable, Record] = {}
    for record in sorted(by_key.values(), key=lambda record: record.started):
        last[_place(record)] = record
    for key, record in list(by_key.items()):
        method = record.config.method
        code = last[_place(record)].versions.get(method)
        if record.versions.get(method) != code:
            del by_key[key]
            warnings.append(
                f"run {key} left out: {method} was changed since, and trained again"
            )


def _place(record: Record) -> Hashable:
    return record.config.setting, record.data["hash"], record.config.method


def find_files(path: Path) -> list[Path]:
    """Find the files of records at a path.

    Args:
        path: of a folder or of one such file.

    Returns:
        The files, in the order of their names.

    Raises:
        LabError: if there is none.
        PermissionError: if the folder cannot be read.
    """
    if path.is_file():
        return [path]
    name = hide_home(str(path))
    if not path.is_dir():
        raise LabError(f"{name} does not exist: give a folder or file of records")
    if not os.access(path, os.R_OK | os.X_OK):  # rglob would find it empty
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
    files = sorted(path.rglob(FILE_NAME))
    if not files:
        raise LabError(
            f"{name} holds no {FILE_NAME}: give the folder that --out named in training"
        )
    return files
