"""Average precision is that of VOC2007: by hand, by a literal twin, by torchmetrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from tests.distributed.processes import run
from tests.drawing import examples
from tests.tolerances import FLOAT32_PROMISE, ORACLE_RTOL
from trainact.lab.detection.average_precision import (
    Detections,
    Truth,
    average_precisions,
    eleven_points,
    mean_average_precision,
)
from trainact.lab.detection.metric import VOCMeanAveragePrecision

Box = tuple[int, int, int, int]
# Image, label, score and box; and image, label, whether it is difficult, and box.
Found = tuple[int, int, float, Box]
Real = tuple[int, int, bool, Box]

A: Box = (0, 0, 10, 10)
B: Box = (20, 0, 30, 10)
FAR: Box = (50, 50, 60, 60)


def detections(rows: Sequence[Found]) -> Detections:
    image, label, score, box = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Detections(
        np.array(image, dtype=np.int64),
        np.array(label, dtype=np.int64),
        np.array(score, dtype=np.float64),
        np.array(box, dtype=np.float64).reshape(-1, 4),
    )


def truth(rows: Sequence[Real]) -> Truth:
    image, label, difficult, box = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Truth(
        np.array(image, dtype=np.int64),
        np.array(label, dtype=np.int64),
        np.array(difficult, dtype=np.bool_),
        np.array(box, dtype=np.float64).reshape(-1, 4),
    )


def ap(found: Sequence[Found], real: Sequence[Real]) -> float:
    values = average_precisions(detections(found), truth(real))
    assert list(values) == [0]
    return values[0]


# By hand.

ONE: list[Real] = [(0, 0, False, A)]
TWO: list[Real] = [(0, 0, False, A), (0, 0, False, B)]
CASES: dict[str, tuple[list[Found], list[Real], Fraction]] = {
    "nothing found": ([], ONE, Fraction(0)),
    "found": ([(0, 0, 0.9, A)], ONE, Fraction(1)),
    "one of two": ([(0, 0, 0.9, A)], TWO, Fraction(6, 11)),
    "right, wrong, right": (
        [(0, 0, 0.9, A), (0, 0, 0.8, FAR), (0, 0, 0.7, B)],
        TWO,
        (6 + 5 * Fraction(2, 3)) / 11,
    ),
    "given in another order": (
        [(0, 0, 0.7, B), (0, 0, 0.9, A), (0, 0, 0.8, FAR)],
        TWO,
        (6 + 5 * Fraction(2, 3)) / 11,
    ),
    "wrong before right": (
        [(0, 0, 0.9, FAR), (0, 0, 0.8, A)],
        ONE,
        Fraction(1, 2),
    ),
    "precision that rises again": (
        [(0, 0, 0.9, FAR), (0, 0, 0.8, A), (0, 0, 0.7, B)],
        TWO,
        Fraction(2, 3),
    ),
    "found twice": (
        [(0, 0, 0.9, A), (0, 0, 0.8, A), (0, 0, 0.7, B)],
        TWO,
        (6 + 5 * Fraction(2, 3)) / 11,
    ),
    "other image": ([(1, 0, 0.9, A)], ONE, Fraction(0)),
    "other class": ([(0, 1, 0.9, A)], ONE, Fraction(0)),
    "half overlaps": ([(0, 0, 0.9, (0, 0, 10, 5))], ONE, Fraction(1)),
    "less than half": ([(0, 0, 0.9, (0, 0, 9, 5))], ONE, Fraction(0)),
    "equal scores are in order of the images": (
        [(1, 0, 0.9, A), (0, 0, 0.9, FAR)],
        [(1, 0, False, A), (0, 0, True, B)],
        Fraction(1, 2),
    ),
    "equal scores of an image are in the order given": (
        [(0, 0, 0.9, FAR), (0, 0, 0.9, A)],
        ONE,
        Fraction(1, 2),
    ),
    "difficult ones do not count, however often": (
        [(0, 0, 0.9, B), (0, 0, 0.8, B), (0, 0, 0.7, A)],
        [(0, 0, False, A), (0, 0, True, B)],
        Fraction(1),
    ),
    "a difficult one that is missed": (
        [(0, 0, 0.7, A)],
        [(0, 0, False, A), (0, 0, True, B)],
        Fraction(1),
    ),
    "belongs to the difficult one, which it overlaps more": (
        [(0, 0, 0.9, A)],
        [(0, 0, False, (0, 0, 10, 9)), (0, 0, True, A)],
        Fraction(0),
    ),
    # COCO would give the second one to the object that is still free.
    "belongs to a found one though another is free": (
        [(0, 0, 0.9, A), (0, 0, 0.8, A)],
        [(0, 0, False, A), (0, 0, False, (0, 0, 10, 9))],
        Fraction(6, 11),
    ),
}


@pytest.mark.parametrize(("found", "real", "expected"), CASES.values(), ids=CASES)
def test_by_hand(found: list[Found], real: list[Real], expected: Fraction) -> None:
    assert ap(found, real) == pytest.approx(float(expected), rel=ORACLE_RTOL)


@pytest.mark.parametrize("count", range(11))
def test_so_many_of_ten(count: int) -> None:
    """Three of ten reach the recall 0.3, which is not 3 * 0.1."""
    expected = (count + 1) / 11 if count else 0
    found = eleven_points(np.ones(count, dtype=np.bool_), 10)
    assert found == pytest.approx(expected, rel=ORACLE_RTOL)


def test_classes_without_an_object_that_counts_are_left_out() -> None:
    found: list[Found] = [(0, label, 0.9, A) for label in (0, 1, 2, 3)]
    real: list[Real] = [(0, 1, False, A), (0, 2, True, A), (0, 3, False, B)]
    assert average_precisions(detections(found), truth(real)) == {1: 1.0, 3: 0.0}
    assert mean_average_precision(detections(found), truth(real)) == 0.5


@pytest.mark.parametrize("real", [[], [(0, 0, True, A)]], ids=["none", "difficult"])
def test_nothing_that_counts_gives_nan(real: list[Real]) -> None:
    value = mean_average_precision(detections([(0, 0, 0.9, A)]), truth(real))
    assert math.isnan(value)


# The twin: pixel numbers as the challenge's annotations have them, one at a time.


def overlap(one: Box, other: Box) -> Fraction:
    """Of boxes that are given by their first and last pixels."""
    width = min(one[2], other[2]) - max(one[0], other[0]) + 1
    height = min(one[3], other[3]) - max(one[1], other[1]) + 1
    if width <= 0 or height <= 0:
        return Fraction(0)
    areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (one, other)]
    return Fraction(width * height, sum(areas) - width * height)


def owner_of(row: Found, objects: Sequence[Real]) -> int | None:
    """The object of the same image that is overlapped most, if it is by half."""
    image, _, _, box = row
    best, owner = Fraction(0), None
    for number, (where, _, _, other) in enumerate(objects):
        if where == image and overlap(box, other) > best:
            best, owner = overlap(box, other), number
    return owner if best >= Fraction(1, 2) else None


def twin(found: Sequence[Found], real: Sequence[Real], label: int) -> Fraction | None:
    objects = [row for row in real if row[1] == label]
    wanted = sum(not difficult for _, _, difficult, _ in objects)
    if wanted == 0:
        return None
    taken: set[int] = set()
    points: list[tuple[Fraction, Fraction]] = []
    judged = 0
    own = [row for row in found if row[1] == label]
    for row in sorted(own, key=lambda row: (-row[2], row[0])):
        owner = owner_of(row, objects)
        if owner is not None and objects[owner][2]:
            continue
        judged += 1
        if owner is not None:
            taken.add(owner)  # again, if it is found twice
        points.append((Fraction(len(taken), wanted), Fraction(len(taken), judged)))
    total = Fraction(0)
    for tenth in range(11):
        reached = [p for recall, p in points if recall >= Fraction(tenth, 10)]
        total += max(reached, default=Fraction(0))
    return total / 11


def edges(box: Box) -> Box:
    return box[0] - 1, box[1] - 1, box[2], box[3]


@st.composite
def pixel_boxes(draw: st.DrawFn) -> Box:
    left, top = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    width, height = draw(st.integers(0, 5)), draw(st.integers(0, 5))
    return left, top, left + width, top + height


images, labels = st.integers(0, 2), st.integers(0, 1)
scores = st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.9])


@examples(300)
@given(
    st.lists(st.tuples(images, labels, scores, pixel_boxes()), max_size=14),
    st.lists(st.tuples(images, labels, st.booleans(), pixel_boxes()), max_size=9),
)
def test_agrees_with_the_twin(found: list[Found], real: list[Real]) -> None:
    values = average_precisions(
        detections([(i, c, s, edges(box)) for i, c, s, box in found]),
        truth([(i, c, d, edges(box)) for i, c, d, box in real]),
    )
    for label in (0, 1):
        expected = twin(found, real, label)
        assert (label in values) == (expected is not None)
        if expected is not None:
            assert values[label] == pytest.approx(float(expected), rel=ORACLE_RTOL)


# The metric, which has the interface of torchmetrics' own.


def made_up(num_images: int) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """Objects far from each other; detections near some of them, and elsewhere."""
    generator = np.random.default_rng(0)
    found: list[dict[str, Tensor]] = []
    targets: list[dict[str, Tensor]] = []
    for image in range(num_images):
        count = int(generator.integers(1, 5))
        corners = np.stack((np.arange(count) * 100.0, np.zeros(count)), axis=1)
        boxes = np.concatenate((corners, corners + 40), axis=1)
        label = generator.integers(0, 3, count)
        moved = np.concatenate((boxes, boxes[:2])) + generator.integers(-9, 10, (1, 4))
        wrong = np.array([[0.0, 200.0, 30.0, 230.0]])
        guess = np.concatenate((label, label[:2], [0]))
        found.append(
            {
                "boxes": torch.tensor(np.concatenate((moved, wrong))).float(),
                "labels": torch.tensor(guess),
                "scores": torch.tensor(generator.random(len(guess))).float(),
            }
        )
        targets.append(
            {
                "boxes": torch.tensor(boxes).float(),
                "labels": torch.tensor(label),
                "difficult": torch.zeros(count, dtype=torch.bool),
                "image": torch.tensor(image),
            }
        )
    return found, targets


def test_agrees_with_torchmetrics_where_both_mean_the_same() -> None:
    found, targets = made_up(20)
    ours, theirs = (
        VOCMeanAveragePrecision(),
        MeanAveragePrecision(
            iou_thresholds=[0.5],
            rec_thresholds=[tenth / 10 for tenth in range(11)],
        ),
    )
    for metric in (ours, theirs):
        metric.update(found, targets)
    expected = float(theirs.compute()["map"])
    assert 0.2 < expected < 0.9
    assert float(ours.compute()) == pytest.approx(expected, rel=FLOAT32_PROMISE)


def value_of(chosen: list[int]) -> float:
    found, targets = made_up(8)
    metric = VOCMeanAveragePrecision()
    for image in chosen:
        metric.update([found[image]], [targets[image]])
    return float(metric.compute())


def values_on_this_rank(divisions: list[list[list[int]]]) -> list[float]:
    return [value_of(shares[torch.distributed.get_rank()]) for shares in divisions]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_processes_divide_the_images_in_any_way() -> None:
    whole = value_of(list(range(8)))
    assert 0 < whole < 1
    # Unequal and not in order; and one process without any.
    divisions = [[[6, 1, 7], [0, 5, 2, 4, 3]], [[], list(range(8))]]
    assert run(2, values_on_this_rank, divisions) == [[whole] * 2] * 2
