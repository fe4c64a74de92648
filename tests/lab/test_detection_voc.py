"""VOC2007 as it lies on a disk, what may be wrong with it, and the made-up images."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trainact.lab.detection import voc
from trainact.lab.detection.data import DetectionData, load_detection
from trainact.lab.detection.examples import Example, Objects
from trainact.lab.errors import LabError

WIDTH, HEIGHT = 20, 12


@dataclass(frozen=True)
class Thing:
    """An object as an annotation has it: pixels from 1, first and last."""

    name: str
    box: tuple[int, int, int, int]
    difficult: bool = False


THINGS = {
    "000005": [Thing("car", (1, 1, 20, 12)), Thing("person", (3, 4, 3, 9), True)],
    "000007": [Thing("person", (2, 3, 10, 11))],
    "000009": [],
    "000001": [Thing("dog", (5, 5, 6, 6), True), Thing("cat", (1, 2, 8, 12))],
    "000002": [Thing("tvmonitor", (11, 1, 20, 2))],
}
SPLITS = {"trainval": ("000005", "000007", "000009"), "test": ("000001", "000002")}


def write_annotation(folder: Path, name: str, things: list[Thing]) -> None:
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = f"{name}.jpg"
    for thing in things:
        entry = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(entry, "name").text = thing.name
        ElementTree.SubElement(entry, "difficult").text = str(int(thing.difficult))
        add_box(entry, thing.box)
        if thing.name == "person":  # which have parts with boxes of their own
            part = ElementTree.SubElement(entry, "part")
            ElementTree.SubElement(part, "name").text = "head"
            add_box(part, (1, 1, 2, 2))
    ElementTree.ElementTree(root).write(folder / f"{name}.xml")


def add_box(entry: ElementTree.Element, box: tuple[int, int, int, int]) -> None:
    bndbox = ElementTree.SubElement(entry, "bndbox")
    for corner, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
        ElementTree.SubElement(bndbox, corner).text = str(value)


def pixels(name: str) -> np.ndarray:
    """Smooth, so that JPEG hardly changes it."""
    level = 30 + 8 * int(name)
    columns = np.arange(WIDTH)[None, :, None] * 4 + np.arange(3) * 10
    return np.broadcast_to(level + columns, (HEIGHT, WIDTH, 3)).astype(np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder that holds VOCdevkit/VOC2007 with five images."""
    inside = tmp_path / "VOCdevkit" / "VOC2007"
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (inside / part).mkdir(parents=True)
    for name, things in THINGS.items():
        write_annotation(inside / "Annotations", name, things)
        file = inside / "JPEGImages" / f"{name}.jpg"
        Image.fromarray(pixels(name)).save(file, quality=95)
    for split, names in SPLITS.items():
        lines = "".join(f"{name}\n" for name in names)
        (inside / "ImageSets" / "Main" / f"{split}.txt").write_text(lines)
    return tmp_path


def load(root: Path, **options: Any) -> DetectionData:
    return load_detection(f"voc:{root}", root / "elsewhere", **options)


def inside(root: Path, *parts: str) -> Path:
    return root.joinpath("VOCdevkit", "VOC2007", *parts)


# What is read.


def test_round_trip(root: Path) -> None:
    data = load(root)
    assert (data.num_train, data.num_test, data.num_classes) == (3, 2, 20)
    assert data.image_shape == (3, 600, 600)
    names = [*SPLITS["trainval"], *SPLITS["test"]]
    for name, example in zip(names, (*data.train, *data.test), strict=True):
        objects, things = example.objects, THINGS[name]
        assert [data.classes[label] for label in objects.labels] == [
            thing.name for thing in things
        ]
        assert objects.difficult.tolist() == [thing.difficult for thing in things]
        assert objects.boxes.dtype == np.float32
        expected = [
            [left - 1, top - 1, right, bottom]
            for left, top, right, bottom in (thing.box for thing in things)
        ]
        assert objects.boxes.reshape(-1, 4).tolist() == expected
        image_CHW = example.read()
        assert (image_CHW.dtype, image_CHW.shape) == (torch.uint8, (3, HEIGHT, WIDTH))
        original_CHW = torch.from_numpy(pixels(name)).permute(2, 0, 1)
        assert (image_CHW.int() - original_CHW.int()).abs().max() <= 6


def test_a_box_holds_the_pixels_that_the_annotation_says() -> None:
    entry = {"name": "dog", "bndbox": dict(zip(voc._CORNERS, "1343", strict=True))}
    edges, label, difficult = voc._read_object(entry, (WIDTH, HEIGHT))
    assert (edges, voc.CLASSES[label], difficult) == ([0, 2, 4, 3], "dog", False)


def test_easy_objects() -> None:
    boxes_N4 = np.arange(12, dtype=np.float32).reshape(3, 4)
    objects = Objects(boxes_N4, np.arange(3), np.array([False, True, False]))
    assert objects.easy().labels.tolist() == [0, 2]
    assert np.array_equal(objects.easy().boxes, boxes_N4[[0, 2]])
    assert not objects.easy().difficult.any()


@given(st.data(), st.integers(1, 9), st.integers(1, 9))
def test_a_mirrored_box_holds_the_mirrored_pixels(
    data: st.DataObject, width: int, height: int
) -> None:
    left = data.draw(st.integers(0, width - 1))
    top = data.draw(st.integers(0, height - 1))
    right = data.draw(st.integers(left + 1, width))
    bottom = data.draw(st.integers(top + 1, height))

    def filled(box: list[float]) -> np.ndarray:
        mask_HW = np.zeros((height, width))
        x1, y1, x2, y2 = map(int, box)
        mask_HW[y1:y2, x1:x2] = 1
        return mask_HW

    box = [left, top, right, bottom]
    objects = Objects(np.array([box], np.float32), np.zeros(1, int), np.zeros(1, bool))
    mirrored = objects.mirrored(width).boxes[0].tolist()
    assert np.array_equal(filled(mirrored), filled(box)[:, ::-1])


def test_statistics(root: Path) -> None:
    data = load(root)
    values = torch.cat([each.read().flatten(1) for each in data.train], dim=1).double()
    mean_C, std_C = data.statistics
    assert (mean_C.dtype, std_C.dtype) == (torch.float32, torch.float32)
    for found, expected in (
        (mean_C, values.mean(1)),
        (std_C, values.std(1, correction=0)),
    ):
        torch.testing.assert_close(found, expected.float())


def test_samples_are_squares_and_always_the_same(root: Path) -> None:
    data = load(root, image_size=16)
    assert data.image_shape == (3, 16, 16)
    assert data.sample(2).shape == (2, 3, 16, 16)
    assert data.sample(9).shape == (3, 3, 16, 16)
    assert data.sample(2).dtype == torch.uint8
    assert torch.equal(data.sample(2), data.sample(2))
    # A bilinear square keeps the mean of a linear ramp.
    means = sorted(each.read().double().mean().item() for each in data.train)
    sampled = sorted(data.sample(3).double().mean((1, 2, 3)).tolist())
    assert sampled == pytest.approx(means, abs=1)


def test_a_limit_keeps_test_images_and_order(root: Path) -> None:
    data = load(root)
    some = load(root, limit=2)
    assert (some.num_train, some.num_test) == (2, 2)
    names = [str(each.image) for each in some.train]
    assert names == sorted(names)
    assert set(names) < {str(each.image) for each in data.train}
    assert load(root, limit=99).num_train == 3


# What tells one set from another.


def test_fingerprint(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    first = load(root).fingerprint
    assert {**first, "hash": ""} == {
        "train": 3,
        "test": 2,
        "shape": [3, 600, 600],
        "classes": list(voc.CLASSES),
        "hash": "",
    }
    moved = tmp_path_factory.mktemp("moved") / "place"
    shutil.copytree(root, moved)
    assert load(moved).fingerprint == first
    assert load(root, limit=2).fingerprint["hash"] != first["hash"]


@pytest.mark.parametrize(
    "thing",
    [
        Thing("person", (2, 3, 10, 12)),
        Thing("dog", (2, 3, 10, 11)),
        Thing("person", (2, 3, 10, 11), True),
    ],
    ids=["box", "label", "difficult"],
)
def test_fingerprint_sees_annotations(root: Path, thing: Thing) -> None:
    first = load(root).fingerprint["hash"]
    write_annotation(inside(root, "Annotations"), "000007", [thing])
    assert load(root).fingerprint["hash"] != first


def test_fingerprint_sees_images(root: Path) -> None:
    first = load(root).fingerprint["hash"]
    file = inside(root, "JPEGImages", "000002.jpg")
    Image.fromarray(pixels("000003")).save(file)
    assert load(root).fingerprint["hash"] != first


# What may be wrong.


def problem(root: Path) -> str:
    with pytest.raises(LabError) as caught:
        load(root)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("spec", ["voc2008", "cifar10", "smoke-vok"])
def test_unknown_set(spec: str, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=f"data '{spec}' has no boxes"):
        load_detection(spec, tmp_path)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (".", "trainval.txt does not exist: voc:PATH is the folder"),
        ("ImageSets/Main/test.txt", "test.txt does not exist"),
        ("JPEGImages/000007.jpg", "000007.jpg (FileNotFoundError): repair"),
        ("Annotations/000002.xml", "000002.xml (No such file or directory)"),
    ],
)
def test_missing_files(root: Path, part: str, expected: str) -> None:
    path = inside(root, part)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert expected in problem(root)


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        (Thing("person", (0, 1, 5, 5)), "the box (0, 1, 5, 5) of 'person' does not"),
        (Thing("cat", (1, 1, 21, 5)), "whose pixels are (1, 1) to (20, 12)"),
        (Thing("cat", (1, 1, 5, 13)), "the box (1, 1, 5, 13)"),
        (Thing("cat", (6, 1, 5, 12)), "the box (6, 1, 5, 12)"),
        (Thing("cat", (1, 7, 5, 6)), "the box (1, 7, 5, 6)"),
        (Thing("carr", (1, 1, 5, 5)), "class 'carr' is none of VOC2007's (did you"),
    ],
)
def test_bad_objects(root: Path, thing: Thing, expected: str) -> None:
    write_annotation(inside(root, "Annotations"), "000007", [thing])
    message = problem(root)
    assert message.startswith(f"annotation {inside(root, 'Annotations', '000007.xml')}")
    assert expected in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<annotation>", "no element found"),
        ("", "no element found"),
        ("<html><body>404</body></html>", "it is no annotation"),
        ("<html/>", "it is no annotation"),
        ("<annotation><object><name>cat</name></object></annotation>", "no bndbox"),
        ("<annotation><object><bndbox/></object></annotation>", "no name"),
        (
            "<annotation><object><name>cat</name><bndbox><xmin>one</xmin></bndbox>"
            "</object></annotation>",
            "could not convert",
        ),
        (
            "<annotation><object><name>cat</name><bndbox>1 2 3 4</bndbox></object>"
            "</annotation>",
            "is not as VOC2007's are",
        ),
    ],
)
def test_bad_annotations(root: Path, text: str, expected: str) -> None:
    inside(root, "Annotations", "000007.xml").write_text(text)
    message = problem(root)
    assert expected in message
    assert "000007.xml" in message


def test_no_image(root: Path) -> None:
    inside(root, "JPEGImages", "000007.jpg").write_bytes(b"no image")
    assert "000007.jpg (UnidentifiedImageError): repair it or put" in problem(root)


def test_an_image_that_ends_early_is_named(root: Path) -> None:
    file = inside(root, "JPEGImages", "000007.jpg")
    file.write_bytes(file.read_bytes()[:-30])
    data = load(root)
    with pytest.raises(LabError, match=r"cannot read image .*000007.jpg \(OSError\)"):
        data.train[1].read()


def test_an_empty_list(root: Path) -> None:
    inside(root, "ImageSets", "Main", "trainval.txt").write_text("")
    assert "trainval.txt lists no images" in problem(root)


def test_nothing_to_find(root: Path) -> None:
    inside(root, "ImageSets", "Main", "test.txt").write_text("000009\n")
    assert "no test image holds an object that is not difficult" in problem(root)


def test_download(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("<urlopen error no network>")

    monkeypatch.setattr("torchvision.datasets.voc.download_and_extract_archive", refuse)
    # What is there is not downloaded again.
    assert load_detection("voc2007", root).num_train == 3
    empty = tmp_path / "empty"
    with pytest.raises(LabError) as caught:
        load_detection("voc2007", empty)
    assert str(caught.value) == (
        "cannot download voc2007 (<urlopen error no network>): without a network, "
        "unpack VOC2007's trainval archive so that "
        f"{empty / 'VOCdevkit' / 'VOC2007'} is there, or give voc:PATH"
    )


# The made-up images.


def test_smoke() -> None:
    first, second = (load_detection("smoke-voc", Path("nowhere")) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert (first.num_train, first.num_test, first.num_classes) == (2, 2, 20)
    assert [each.objects.difficult.tolist() for each in first.test] == [
        [False, False],
        [False, True],
    ]
    for example in (*first.train, *first.test):
        image_CHW = example.read()
        for box, channel in zip(example.objects.boxes, (0, 2), strict=True):
            left, top, right, bottom = map(int, box)
            assert 0 <= left < right <= 64
            assert 0 <= top < bottom <= 48
            assert (image_CHW[channel, top:bottom, left:right] == 255).all()
            assert (image_CHW[1, top:bottom, left:right] == 0).all()
        assert example.read().data_ptr() != image_CHW.data_ptr()


def test_data_cannot_be_without_an_object_that_counts() -> None:
    data = load_detection("smoke-voc", Path("nowhere"))
    image, objects = data.test[0].image, data.test[0].objects
    hard = Objects(objects.boxes, objects.labels, np.ones(2, dtype=np.bool_))
    with pytest.raises(LabError, match="no test image"):
        replace(data, test=(Example(image, hard),))
