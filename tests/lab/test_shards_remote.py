"""Shards on a server or in an object store: fetched whole, once, into a cache."""

from __future__ import annotations

import functools
import http.server
import json
import multiprocessing
import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.foreign_shards import check_pets, index_shards, write_pets
from tests.lab.photographic import draw, load
from trainact.lab.data.photographs import remote
from trainact.lab.data.photographs.remote import fetch, is_remote, join, local_path
from trainact.lab.errors import LabError

needs_curl = pytest.mark.skipif(
    shutil.which("curl") is None, reason="curl fetches from a server"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pets(tmp_path / "elsewhere")


def test_locations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for location in ("https://host/x", "http://host", "s3://bucket/x", "gs://b/x"):
        assert is_remote(location)
        assert join(location, "a.tar") == f"{location}/a.tar"
    assert not is_remote("/some/where")
    assert not is_remote("file:///some/where")
    assert join("file:///some/where", "a.tar") == "/some/where/a.tar"
    assert join("/x", "https://host/a.tar") == "https://host/a.tar"
    assert local_path("file:///with%20space") == Path("/with space")
    for location in ("pipe:rm -rf x", "ftp://host/x"):
        with pytest.raises(LabError, match="of URLs http, https, s3, gs and file"):
            is_remote(location)
    (tmp_path / "odd:name").mkdir()
    monkeypatch.chdir(tmp_path)
    assert not is_remote("odd:name")


@pytest.mark.parametrize(
    "url",
    [
        "pipe:{}",
        "pipe:curl '{}'",
        *(
            f"{scheme}://127.0.0.1:9/{escape}"
            for scheme in ("http", "https", "s3", "gs", "HTTP")
            for escape in ("a';{};'.tar", "$({}).tar", "`{}`.tar", "a|{}", "a\n{}\n")
        ),
    ],
)
def test_an_index_cannot_run_commands(
    folder: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("curl", "aws", "gsutil"):
        (tools / name).write_text("#!/bin/sh\nexit 3\n")
        (tools / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    assert index_shards(folder) == 0
    values = json.loads((folder / "index.json").read_text())
    hurt = folder / "hurt"
    values["train"][0]["name"] = url.format(f"touch {hurt}")
    (folder / "index.json").write_text(json.dumps(values))
    with pytest.raises(LabError):
        load(f"webdataset:{folder}", data_dir=tmp_path).train.read(0)
    assert not hurt.exists()


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder on this machine and remembers what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        self.server.asked.append(self.path)
        super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        del format, args


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with Server(folder) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@needs_curl
def test_shards_on_a_server(folder: Path, server: Server, tmp_path: Path) -> None:
    assert index_shards(folder) == 0
    check_pets(f"webdataset:{server.url}", tmp_path)
    check_pets(f"webdataset:{server.url}/", tmp_path)
    assert sorted(name for name in server.asked if name.endswith(".tar")) == [
        "/pets-train-0000.tar",
        "/pets-train-0002.tar",
        "/pets-validation-00.tar",
    ], "each once, and what has no images not at all"
    kept = sorted(path.name[17:] for path in (tmp_path / "shards").iterdir())
    assert kept == [
        "pets-train-0000.tar",
        "pets-train-0002.tar",
        "pets-validation-00.tar",
    ]
    local, fetched = f"webdataset:{folder}", f"webdataset:{server.url}"
    hashes = {load(spec).fingerprint["hash"] for spec in (local, fetched)}
    assert len(hashes) == 1, "where they are makes no difference"


@needs_curl
def test_an_index_of_shards_on_a_server(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = f"{server.url}/{{pets-train-{{0000..0002}},pets-validation-00}}.tar"
    assert index_shards(urls) == 2
    assert "give a folder for it with --out" in capsys.readouterr().err
    assert index_shards(server.url, "--out", tmp_path / "out") == 2
    assert "what is there cannot be listed" in capsys.readouterr().err
    assert index_shards(urls, "--out", tmp_path / "out") == 0
    assert len(server.asked) == 4, "each was read once"
    check_pets(f"webdataset:{tmp_path / 'out'}", tmp_path)


@needs_curl
def test_what_is_not_on_the_server(
    folder: Path, server: Server, tmp_path: Path
) -> None:
    with pytest.raises(LabError, match=r"cannot fetch .*/index\.json \(exit 22\)"):
        load(f"webdataset:{server.url}")
    assert index_shards(folder) == 0
    data = load(f"webdataset:{server.url}", data_dir=tmp_path)
    (folder / "pets-train-0000.tar").unlink()
    with pytest.raises(LabError, match=r"cannot fetch .*0000\.tar \(exit 22\)"):
        data.train.read(0)
    shard = folder / "pets-train-0002.tar"
    shard.write_bytes(shard.read_bytes() + bytes(10))
    with pytest.raises(LabError, match=r"0002\.tar has \d+ bytes and \d+ by its index"):
        data.train.read(2)
    copies = [path for path in (tmp_path / "shards").iterdir() if path.suffix == ".tar"]
    assert not copies, "what is not whole has no name"
    shard.write_bytes(shard.read_bytes()[:-10])
    assert data.train.read(2).size == draw(3).size


def fetch_some(url: str, folder: Path, start: Any) -> None:
    start.wait()
    for number in range(4):
        fetch(f"{url}/{number}.bin", folder / f"{number}.bin", 3_000_000)


@needs_curl
def test_processes_fetch_a_shard_once(
    folder: Path, server: Server, tmp_path: Path
) -> None:
    for number in range(4):
        (folder / f"{number}.bin").write_bytes(bytes([number]) * 3_000_000)
    context = multiprocessing.get_context("fork")
    cache, start = tmp_path / "cache", context.Barrier(4)
    processes = [
        context.Process(target=fetch_some, args=(server.url, cache, start))
        for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sorted(server.asked) == [f"/{number}.bin" for number in range(4)]
    assert sorted(path.name for path in cache.iterdir()) == [
        f"{number}.bin" for number in range(4)
    ]
    for number in range(4):
        assert (cache / f"{number}.bin").read_bytes() == bytes([number]) * 3_000_000


def test_a_fetch_that_was_cut_short_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cache" / "a.tar"
    path.parent.mkdir()
    Path(f"{path}.part").write_bytes(b"left by a crash")

    def broken(url: str) -> Iterator[bytes]:
        yield url.encode()
        raise KeyboardInterrupt

    monkeypatch.setattr(remote, "blocks", broken)
    with pytest.raises(KeyboardInterrupt):
        fetch("https://host/a.tar", path, 5)
    assert not path.exists()
    monkeypatch.setattr(remote, "blocks", lambda _: iter([b"whole"]))
    fetch("https://host/a.tar", path, 5)
    assert path.read_bytes() == b"whole"
    assert [each.name for each in path.parent.iterdir()] == ["a.tar"]


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match=r"cannot keep .*give another --data-dir"):
        fetch("https://host/a.tar", tmp_path / "file" / "a.tar", 5)


def test_s3_is_read_with_its_own_tool(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for `aws` that copies from a folder."""
    tool = tmp_path / "bin" / "aws"
    tool.parent.mkdir()
    tool.write_text(
        "#!/bin/sh\n"
        '[ "$1 $2 $3 $5" = "s3 cp --only-show-errors -" ] || exit 3\n'
        f'exec cat "{folder}/${{4#s3://bucket/pets/}}"\n'
    )
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    assert index_shards(folder) == 0
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path / "nothing"))
        with pytest.raises(LabError, match=r"fetch s3://.* \(aws is not installed\)"):
            load("webdataset:s3://bucket/pets")
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    check_pets("webdataset:s3://bucket/pets", tmp_path)
