"""Every bad input: one line to stderr that says what to do, exit code 2."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.lab.conftest import TINY, Cli, make_folder, make_images


def assert_one_line(compare: Cli, *arguments: str, says: str) -> None:
    outcome = compare(*arguments)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1, outcome.err
    assert outcome.err.startswith("trainact: ")
    assert says in outcome.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--data", "digit"), "data 'digit' is not known (did you mean 'digits'?)"),
        (("--data", "qqq"), "give one of digits, fashion-mnist"),
        (("--model", "small-cn"), "is not known (did you mean 'small-cnn'"),
        (("--model", "resnet81"), "(did you mean 'resnet18'"),
        (("--model", "torchvision:resnet81"), "(did you mean 'resnet18'"),
        (
            ("--model", "timms:resnet18"),
            "timm:resnet18, cifar:resnet18 or deit3:",
        ),
        (("--model",), "--model was given without a value"),
        (("--methods", "trakt"), "is not known (did you mean 'tract'?)"),
        (("--methods", "qqq"), "give one of vanilla, tract"),
        (("--lr", "0"), "--lr 0.0: give a finite number above 0"),
        (("--lr", "-1"), "--lr -1.0"),
        (("--lr", "nan"), "--lr nan"),
        (("--lr", "inf"), "--lr inf"),
        (("--lam", "0"), "--lam 0.0"),
        (("--lam", "0.1", "-3"), "--lam -3.0"),
        (("--epochs", "0"), "--epochs 0"),
        (("--epochs", "-2"), "--epochs -2"),
        (("--batch-size", "0"), "--batch-size 0"),
        (("--limit", "0"), "--limit 0"),
        (("--limit", "9"), "give at least 10"),
        (("--seeds", "-1"), "--seeds -1: a seed lies between 0 and"),
        (("--seeds", "4294967296"), "a seed lies between 0 and"),
        (("--image-size", "16"), "digits has a size of its own"),
        (("--device", "abacus"), "give auto, cpu, cuda, cuda:1 or mps"),
        (("--device", "cuda:99"), "not on this machine"),
        (("--device", "xpu"), "not on this machine"),
        (("--precision", "16-mixed", "--device", "cpu"), "use 32 or bf16-mixed"),
        (("--layer", "nose"), "cannot be applied to small-cnn"),
        (("--data", "imagefolder:/nowhere/at/all"), "does not exist"),
        (("--model", "resnet18"), "3 channels and these have 1"),
        (("--model", "vgg11_bn", "timm:vgg11_bn"), "takes images with 3 channels"),
        (("--model", "timm:vgg11_bn"), "does not train on images of 1 x 8 x 8"),
    ],
)
def test_options(compare: Cli, arguments: tuple[str, ...], says: str) -> None:
    assert_one_line(compare, *arguments, says=says)


@pytest.mark.parametrize("bad", [("--epochs", "many"), ("--optimizer", "sdg")])
def test_what_the_parser_refuses(compare: Cli, bad: tuple[str, str]) -> None:
    outcome = compare(*bad)
    assert outcome.code == 2
    assert bad[0] in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("option", ["--data", "--model", "--data-dir"])
def test_a_name_that_is_not_utf8(compare: Cli, option: str) -> None:
    odd = os.fsdecode(b"imagefolder:caf\xe9")
    assert_one_line(compare, option, odd, says=r"'imagefolder:caf\udce9' is not UTF-8")


def test_out_is_a_file(compare: Cli, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    assert_one_line(compare, says="give another folder with --out")


def test_records_is_a_folder(compare: Cli, tmp_path: Path) -> None:
    (tmp_path / "out" / "records.jsonl").mkdir(parents=True)
    assert_one_line(compare, says="give another folder with --out")


def test_unreadable_image(compare: Cli, tmp_path: Path) -> None:
    root = make_folder(tmp_path / "images")
    bad = root / "train" / "dog" / "bad.png"
    bad.write_bytes((root / "train" / "dog" / "000.png").read_bytes()[:60])
    assert_one_line(
        compare,
        "--data",
        f"imagefolder:{root}",
        says=f"cannot read image {bad} (OSError): repair or remove it",
    )


def test_text_in_an_image_file(compare: Cli, tmp_path: Path) -> None:
    root = make_folder(tmp_path / "images")
    bad = root / "test" / "cat" / "bad.jpg"
    bad.write_text("not an image", encoding="utf-8")
    assert_one_line(
        compare, "--data", f"imagefolder:{root}", says=f"cannot read image {bad}"
    )


def test_sixteen_bits(compare: Cli, tmp_path: Path) -> None:
    root = make_folder(tmp_path / "images")
    deep = np.full((8, 8), 60_000, dtype=np.uint16)
    Image.fromarray(deep).save(root / "train" / "cat" / "deep.png")
    assert_one_line(
        compare, "--data", f"imagefolder:{root}", says="more than 8 bits per channel"
    )


def test_images_of_two_sizes(compare: Cli, tmp_path: Path) -> None:
    root = make_folder(tmp_path / "images")
    make_images(root / "test" / "dog", 1, size=(9, 8))
    assert_one_line(compare, "--data", f"imagefolder:{root}", says="give --image-size")


def test_images_that_do_not_fit_into_memory(compare: Cli, tmp_path: Path) -> None:
    root = make_folder(tmp_path / "images")
    assert_one_line(
        compare,
        *("--data", f"imagefolder:{root}", "--image-size", "1000000"),
        says="give a smaller --image-size or a --limit",
    )


def test_empty_folder(compare: Cli, tmp_path: Path) -> None:
    root = tmp_path / "images"
    root.mkdir()
    assert_one_line(
        compare, "--data", f"imagefolder:{root}", says="has no class folders"
    )


def test_empty_class(compare: Cli, tmp_path: Path) -> None:
    root = make_folder(tmp_path / "images")
    (root / "train" / "eel").mkdir()
    assert_one_line(compare, "--data", f"imagefolder:{root}", says="eel has no images")


def test_one_class(compare: Cli, tmp_path: Path) -> None:
    make_images(tmp_path / "images" / "cat", 5)
    assert_one_line(
        compare, "--data", f"imagefolder:{tmp_path / 'images'}", says="one class only"
    )


def test_a_class_of_one_image(compare: Cli, tmp_path: Path) -> None:
    make_images(tmp_path / "images" / "cat", 5)
    make_images(tmp_path / "images" / "dog", 1)
    assert_one_line(
        compare, "--data", f"imagefolder:{tmp_path / 'images'}", says="dog has one"
    )


def test_a_test_class_without_training_images(compare: Cli, tmp_path: Path) -> None:
    root = make_folder(tmp_path / "images")
    make_images(root / "test" / "eel", 2)
    assert_one_line(
        compare, "--data", f"imagefolder:{root}", says="eel has no counterpart"
    )


def test_a_file_for_a_folder(compare: Cli, tmp_path: Path) -> None:
    (tmp_path / "images").touch()
    assert_one_line(
        compare, "--data", f"imagefolder:{tmp_path / 'images'}", says="is not a folder"
    )


def test_images_too_small(compare: Cli, tmp_path: Path) -> None:
    root = make_folder(tmp_path / "images", size=(3, 3))
    data = ("--data", f"imagefolder:{root}")
    assert_one_line(
        compare, *data, "--model", "small-cnn", says="does not train on images of 3 x 3"
    )
    root = make_folder(tmp_path / "tiny", size=(1, 1))
    data = ("--data", f"imagefolder:{root}")
    assert_one_line(compare, *data, "--model", "small-vit", says="smaller than a patch")


def test_a_last_batch_of_one_image(compare: Cli, tmp_path: Path) -> None:
    root = make_folder(tmp_path / "images", size=(32, 32))
    assert_one_line(
        compare,
        *("--data", f"imagefolder:{root}", "--model", "resnet18", "--batch-size", "23"),
        says="the last batch has one image: change --batch-size",
    )


def test_a_download_that_fails(
    compare: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for scheme in ("http", "https"):  # nothing listens on the discard port
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    for name in ("fashion-mnist", "cifar10"):
        assert_one_line(
            compare,
            *("--data", name, "--data-dir", str(tmp_path / "data")),
            says=f"cannot download {name}",
        )


@pytest.mark.parametrize(
    ("num_writes", "says"),
    [
        (0, "the epoch could not be written"),
        (2, "mlp, vanilla, seed 1 could not be saved"),  # after a line per epoch
    ],
)
def test_a_disk_that_fills_loses_no_finished_run(
    compare: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_writes: int,
    says: str,
) -> None:
    path = tmp_path / "out" / "records.jsonl"
    arguments = (*TINY, "--methods", "vanilla", "--seeds")
    assert compare(*arguments, "0").code == 0
    before = path.read_bytes()

    written: list[int] = []
    write = os.write

    def full(descriptor: int, payload: bytes) -> int:
        if len(written) == num_writes:
            raise OSError(28, "No space left on device")
        written.append(descriptor)
        return write(descriptor, payload)

    monkeypatch.setattr("trainact.lab.line_file.os.write", full)
    assert_one_line(compare, *(*arguments, "0", "1"), says=says)
    monkeypatch.undo()
    assert path.read_bytes() == before
    outcome = compare(*arguments, "0", "1")
    assert outcome.code == 0
    assert "1 of 2 runs found" in outcome.out
