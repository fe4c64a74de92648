"""Records survive crashes, full disks and hand-made damage."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.lab.conftest import CONFIG, make_record
from trainact.lab.config import RunConfig
from trainact.lab.errors import LabError
from trainact.lab.records import RecordFile

ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path: Path) -> RecordFile:
    return RecordFile(tmp_path / "records.jsonl")


def test_what_is_appended_is_read(file: RecordFile) -> None:
    records = [make_record(replace(CONFIG, seed=seed, lam=0.3)) for seed in range(3)]
    for record in records:
        file.append(record)
    assert file.read() == (records, [])
    assert len(file.path.read_text(encoding="utf-8").splitlines()) == 3


def test_a_name_that_is_not_utf8_loses_no_run(file: RecordFile) -> None:
    odd = make_record(command=os.fsdecode(b"trainact compare caf\xe9"))
    file.append(odd)
    assert file.path.read_bytes().decode().endswith("}\n")
    assert file.read() == ([odd], [])


def test_a_pipe_is_not_waited_for(file: RecordFile) -> None:
    os.mkfifo(file.path)
    for use in (file.read, file.prepare):
        with pytest.raises(LabError, match="is a pipe"):
            use()


def test_a_missing_file_has_no_records(file: RecordFile) -> None:
    assert file.read() == ([], [])


@pytest.mark.parametrize("cut", [1, 50, -2])
def test_a_line_cut_short_is_ignored_and_kept_apart(file: RecordFile, cut: int) -> None:
    first, second = make_record(), make_record(replace(CONFIG, seed=1))
    file.append(first)
    with file.path.open("a", encoding="utf-8") as out:
        out.write(make_record(replace(CONFIG, seed=7)).to_line()[:cut])
    assert file.read()[0] == [first]
    file.append(second)
    records, warnings = file.read()
    assert records == [first, second]
    assert len(warnings) == 1
    assert "line 2 ignored" in warnings[0]


def test_a_whole_line_without_its_newline_is_kept(file: RecordFile) -> None:
    first, second = make_record(), make_record(replace(CONFIG, seed=1))
    file.path.write_text(first.to_line().rstrip("\n"), encoding="utf-8")
    file.append(second)
    assert file.read() == ([first, second], [])


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "3",
        '{"schema": 1}',
        "\x00\x00",
        json.dumps({**json.loads(make_record().to_line()), "schema": 99}),
        json.dumps({**json.loads(make_record().to_line()), "config": {}}),
    ],
)
def test_a_line_that_is_no_record_is_ignored(file: RecordFile, line: str) -> None:
    file.path.write_text(line + "\n" + make_record().to_line(), encoding="utf-8")
    records, warnings = file.read()
    assert records == [make_record()]
    assert len(warnings) == 1


def test_a_full_disk_leaves_the_file_as_it_was(file: RecordFile) -> None:
    resource = pytest.importorskip("resource", reason="no file size limits here")
    file.append(make_record())
    before = file.path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, hard))
    try:
        # The limit lets the first 100 bytes of the line through, as a disk would.
        with pytest.raises(OSError, match="File too large"):
            file.append(make_record(replace(CONFIG, seed=1)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.path.read_bytes() == before
    file.append(make_record(replace(CONFIG, seed=1)))
    assert [record.config.seed for record in file.read()[0]] == [0, 1]


def test_a_record_is_on_the_disk_before_append_returns(
    file: RecordFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    file.append(make_record())
    assert synced == [file.path.stat().st_size]


def test_an_unwritable_place_is_refused_before_training(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.touch()
    with pytest.raises(LabError, match="give another folder with --out"):
        RecordFile(blocker / "out" / "records.jsonl").prepare()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data", "cifar10"),
        ("model", "small-cnn"),
        ("method", "tract"),
        ("lam", 0.2),
        ("optimizer", "adam"),
        ("lr", 0.2),
        ("epochs", 4),
        ("batch_size", 65),
        ("schedule", "constant"),
        ("seed", 1),
        ("limit", 10),
        ("image_size", 32),
        ("layer", "fc1"),
        ("device", "cuda"),
        ("precision", "bf16-mixed"),
        ("drop_last", True),
        ("augment", "crop-flip"),
        ("normalise", "0-1"),
        ("label_smoothing", 0.1),
        ("momentum", 0.8),
        ("weight_decay", 5e-4),
        ("first_layer_lr", 0.1),
        ("warmup_epochs", 1),
        ("milestones", (1, 2)),
        ("gamma", 0.2),
        ("min_lr", 1e-5),
        ("channels_last", True),
        ("compile", True),
        ("task", "detection"),
        ("loss", "binary-cross-entropy"),
        ("decay", "matrices"),
        ("warmup_lr", 1e-6),
        ("drop_path", 0.1),
        ("mixup", 0.8),
        ("cutmix", 1.0),
        ("mix_group", 256),
        ("repeats", 3),
        ("eval_crop", 1.0),
        ("pretrained", "vgg16"),
        ("begins_with", "table3-vit-s-800"),
        ("evaluated", "held-out"),
        ("initial", "0123456789abcdef"),
    ],
)
def test_the_key_depends_on_every_field(field: str, value: object) -> None:
    assert field in RunConfig.__dataclass_fields__
    changed = replace(CONFIG, **{field: value})
    assert changed.key("hash") != CONFIG.key("hash")


def test_every_field_is_in_the_table_above() -> None:
    mark = test_the_key_depends_on_every_field.pytestmark[0]  # type: ignore[attr-defined]
    assert {row[0] for row in mark.args[1]} == set(RunConfig.__dataclass_fields__)


def test_fields_that_were_added_leave_the_keys_of_records() -> None:
    path = ROOT / "records" / "recipes" / "fig3-sgd-100-reduced-cpu.jsonl"
    records, _ = RecordFile(path).read()
    assert records
    for record in records:
        assert record.config.key(str(record.data["hash"])) == record.key


def test_the_key_depends_on_the_data_and_is_stable() -> None:
    assert CONFIG.key("hash") != CONFIG.key("other")
    assert CONFIG.key("hash") == replace(CONFIG).key("hash")
