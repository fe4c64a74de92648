"""Files that torch saved: no code in them runs, and no damaged byte goes unnoticed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainact.lab.checkpointing import SafeCheckpointIO
from trainact.lab.errors import LabError
from trainact.lab.weights import hash_weights, published_weights, read_weights

URL = "https://download.invalid/network-{}.pth"


class Harmful:
    """What makes a folder when it is read without care."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def published(path: Path) -> dict[str, Any]:
    """Read a file as torchvision's, whose name and hash agree."""
    digits = hash_of(path)
    path.rename(path.with_name(URL.format(digits).rpartition("/")[2]))
    return published_weights(URL.format(digits))


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch keeps what it fetched."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "read", [read_weights, SafeCheckpointIO().load_checkpoint, published]
)
def test_no_code_runs(
    read: Callable[[Path], object], cache: Path, *, zipped: bool
) -> None:
    path, made = cache / "network.pth", cache / "made"
    content = {"weight": torch.ones(2), "more": Harmful(made)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(LabError, match="more than tensors and plain values"):
        read(path)
    assert not made.exists()
    torch.load(path if path.exists() else next(cache.iterdir()), weights_only=False)
    assert made.exists(), "the file would have run it"


def test_every_damaged_byte_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    state = {"weight": torch.arange(64.0), "bias": torch.ones(3)}
    torch.save(state, path)
    whole = path.read_bytes()
    noticed = 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            found = read_weights(path)
        except LabError:
            noticed += 1
        else:
            torch.testing.assert_close(found, state, atol=0, rtol=0)
    assert noticed > 4 * 67, "the tensors at least"


def test_published_weights_are_known_by_their_hash(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cache / "network.pth"
    torch.save({"weight": torch.ones(2)}, path)
    assert published(path).keys() == {"weight"}
    (kept,) = cache.iterdir()
    torch.save({"weight": torch.zeros(2)}, kept)

    def no_network(*_: object) -> None:
        pytest.fail("what is there is not fetched")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(LabError, match=f"{kept} is damaged or another file"):
        published_weights(URL.format(kept.stem.rpartition("-")[2]))


@pytest.mark.parametrize("read", [read_weights, hash_weights])
def test_a_pipe_is_not_waited_for(
    read: Callable[[Path], object], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LabError, match="give a regular file"):
        read(tmp_path / "pipe")
