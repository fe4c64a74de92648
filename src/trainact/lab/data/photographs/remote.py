"""Shards in an object store or on a web server: fetched whole, once, into a cache."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from trainact.lab.errors import LabError, describe_os_error, first_line
from trainact.lab.line_file import locked

_CURL = (
    *("curl", "-fsL", "--globoff", "--connect-timeout", "30"),
    *("--retry", "30", "--retry-delay", "2"),
)
# What fetches a URL, which stands for the asterisk. An index may come from anywhere:
# no shell reads these, as one does in webdataset's `gopen` (also for its ``pipe:``).
_COMMANDS = {
    "http": (*_CURL, "*"),
    "https": (*_CURL, "*"),
    "s3": ("aws", "s3", "cp", "--only-show-errors", "*", "-"),
    "gs": ("gsutil", "cat", "*"),
}
SCHEMES = tuple(_COMMANDS)
_BLOCK = 1 << 20
_ANY_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


def is_remote(location: str) -> bool:
    """Whether a location is not on this machine's file systems.

    Args:
        location: a path or URL.

    Returns:
        True for a URL other than ``file:``.

    Raises:
        LabError: if such a URL cannot be read.
    """
    found = _ANY_SCHEME.match(location)
    scheme = found.group()[:-1].lower() if found else "file"
    if scheme == "file" or Path(location).exists():
        return False
    if scheme not in SCHEMES:
        raise LabError(
            f"{location}: there is no such folder, and of URLs {', '.join(SCHEMES)} "
            "and file can be read"
        )
    return True


def local_path(location: str) -> Path:
    """Make a path of a location that is not remote.

    Args:
        location: a path or a ``file:`` URL.

    Returns:
        The path.
    """
    if location.startswith("file:"):
        return Path(url2pathname(urlparse(location).path))
    return Path(location).expanduser()


def join(location: str, name: str) -> str:
    """Say where something beside an index is.

    Args:
        location: of the folder, a path or URL.
        name: of a file, or a whole URL.

    Returns:
        A path or URL.
    """
    if _ANY_SCHEME.match(name):
        return name
    if is_remote(location):
        return f"{location.rstrip('/')}/{name}"
    return os.fspath(local_path(location) / name)


def blocks(url: str) -> Iterator[bytes]:
    """Read a remote file.

    Args:
        url: of it.

    Yields:
        What is in it.

    Raises:
        LabError: if it cannot be read to its end.
    """
    command = _COMMANDS[url.partition(":")[0].lower()]
    try:
        if shutil.which(command[0]) is None:
            raise FileNotFoundError(f"{command[0]} is not installed")
        arguments = [url if part == "*" else part for part in command]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
            output: Any = process.stdout
            while block := output.read(_BLOCK):
                yield block
        if process.returncode:
            raise OSError(f"exit {process.returncode}")
    except (OSError, ValueError) as error:
        raise LabError(
            f"cannot fetch {url} ({first_line(error)}): check the address, the network "
            "and your access to it"
        ) from error


def fetch(url: str, path: Path, num_bytes: int | None = None) -> None:
    """Fetch a file into a cache, once however many processes ask for it at once.

    Args:
        url: of it.
        path: of the copy, which exists only when it is whole.
        num_bytes: length that it must have, where that is known.

    Raises:
        LabError: if it cannot be fetched or kept, or is of another length.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file, locked(file.fileno()):
            # Whoever had the lock before may have finished: the file that is open here
            # is then the copy itself, so that nothing may be done to it.
            if path.exists():
                part.unlink(missing_ok=True)
                return
            file.seek(0)
            file.truncate()
            for block in blocks(url):
                file.write(block)
            if num_bytes not in (None, file.tell()):
                raise LabError(
                    f"{url} has {file.tell()} bytes and {num_bytes} by its index: "
                    "write the index again"
                )
            file.flush()
            part.replace(path)
    except OSError as error:
        raise LabError(
            f"cannot keep {url} at {path} ({describe_os_error(error)}): make room or "
            "give another --data-dir"
        ) from error


def cached_name(url: str) -> str:
    """Name the copy of a URL in the cache.

    Args:
        url: of a file.

    Returns:
        A file name that no other URL has.
    """
    digest = hashlib.blake2b(url.encode(), digest_size=8).hexdigest()
    return f"{digest}-{url.rpartition('/')[2]}"
