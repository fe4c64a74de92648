"""Making shards of a folder of images.

- It can be interrupted anywhere: what has a name is whole; the same command goes on.
- Nothing is overwritten, and there must be room.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.lab.photographic import (
    COUNTS,
    SHARD_BYTES,
    load_shards,
    make_shards,
)
from trainact import cli
from trainact.lab.data.photographs import FileSource, making
from trainact.lab.data.photographs.making import make_shards as write_planned
from trainact.lab.data.photographs.making import plan_shards
from trainact.lab.errors import LabError

NUM_TRAIN = sum(COUNTS["train"])


def ignore(done: int, total: int) -> None:
    assert 0 <= done <= total


class Stop:
    """Interrupts after so many calls."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def __call__(self, done: int = 0, total: int = 0) -> None:
        assert done <= total
        self.calls -= 1
        if self.calls == 0:
            raise KeyboardInterrupt


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def check_whole(folder: Path, made: Path) -> None:
    """What has a name is as it would have been without the interruption."""
    whole = contents(made)
    for name, data in contents(folder).items():
        assert name == ".plan" or whole[name] == data


@pytest.mark.parametrize("calls", [1, 3])
def test_an_interrupted_conversion_goes_on(
    root: Path, made: Path, tmp_path: Path, calls: int
) -> None:
    out = tmp_path / "out"
    plan = plan_shards(root, SHARD_BYTES)
    with pytest.raises(KeyboardInterrupt):
        write_planned(plan, out, Stop(calls))
    check_whole(out, made)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert len(before) == calls
    with pytest.raises(LabError, match="has no index"):
        load_shards(out)
    write_planned(plan, out, ignore)
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert {name: after[name] for name in before} == before, "they are not made again"
    assert contents(out) == contents(made)


def test_an_interruption_within_a_shard(
    root: Path,
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    encoded, stop = FileSource.encoded, Stop(NUM_TRAIN // 2)

    def interrupted(self: FileSource, index: int) -> bytes:
        stop()
        return encoded(self, index)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(FileSource, "encoded", interrupted)
        assert make_shards(root, out) == 130
    captured = capsys.readouterr()
    assert captured.err == "trainact: interrupted\n"
    assert "The same command goes on" in captured.out
    check_whole(out, made)
    assert 0 < len(list(out.glob("*.tar"))) < len(list(made.glob("*.tar")))
    assert make_shards(root, out) == 0
    assert contents(out) == contents(made)


def test_what_a_crash_cut_short_is_made_again(
    root: Path, made: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        write_planned(plan_shards(root, SHARD_BYTES), out, Stop(2))
    shard = out / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    (out / "train-000000.tar").write_bytes(b"")
    shutil.copy(made / "val-000000.tar", out / "train-000002.tar")
    (out / ".train-000003.tar.part").write_bytes(b"half")
    assert make_shards(root, out) == 0
    assert contents(out) == contents(made)


def fail(capsys: pytest.CaptureFixture[str], root: Path, out: Path, *more: str) -> str:
    """The one line that the command says."""
    capsys.readouterr()
    assert make_shards(root, out, *more) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_nothing_is_overwritten(
    root: Path, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(copy)
    assert "has an index already" in fail(capsys, root, copy)
    assert contents(copy) == before
    (copy / "index.json").unlink()
    before = contents(copy)
    assert "is not empty (classes.txt)" in fail(capsys, root, copy)
    assert contents(copy) == before
    begun = tmp_path / "begun"
    with pytest.raises(KeyboardInterrupt):
        write_planned(plan_shards(root, SHARD_BYTES), begun, Stop(1))
    before = contents(begun)
    assert "a part of other shards" in fail(capsys, root, begun, "--limit", "9")
    assert contents(begun) == before


def test_a_full_disk(
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(making.shutil, "disk_usage", lambda _: usage)
    error = fail(capsys, root, tmp_path / "out")
    assert "0.0 GB are free at" in error
    assert not list((tmp_path / "out").glob("*.tar"))


def test_enough_room_is_asked_for(root: Path, made: Path) -> None:
    plan = plan_shards(root, SHARD_BYTES)
    for planned in plan.shards:
        actual = (made / planned.name).stat().st_size
        assert actual <= planned.num_bytes <= actual + 2**15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["make", "pictures", "--out", "x"], "'pictures': give imagefolder:PATH"),
        (["make", "imagefolder:/nowhere", "--out", "x"], "/nowhere does not exist"),
        (
            ["make", "imagefolder:/nowhere", "--out", "x", "--shard-mb", "0"],
            "--shard-mb 0.0: give",
        ),
        (["index", "/nowhere"], "/nowhere is not a folder"),
    ],
)
def test_bad_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["shards", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
