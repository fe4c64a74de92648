"""Drawn augmentation: in batches it is distributed as torchvision's random transforms.

Every bound below is in standard errors or a quantile for the number of draws; the draws
are seeded, so a test that passes passes always.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from tests.lab.test_augment import draw, generator, noise
from trainact.lab.data import autoaugment
from trainact.lab.data.augment import PIPELINES, CropFlip, Rotation, crop_flip, rotate
from trainact.lab.data.autoaugment import AutoAugment, policy

AUGMENTING = [name for name in PIPELINES if name != "none"]


def augment(name: str, images: Tensor, seed: int = 0) -> Tensor:
    pipeline = PIPELINES[name]
    return pipeline.apply(images, pipeline.draw(len(images), generator(seed)))


def augment_singly(name: str, images: Tensor, seed: int = 0) -> Tensor:
    transform = PIPELINES[name].transform(*images.shape[2:])
    torch.manual_seed(seed)
    return torch.stack([transform(image) for image in images])


FORMS = pytest.mark.parametrize("form", [augment, augment_singly])
Form = Callable[[str, Tensor, int], Tensor]


def test_none_does_nothing() -> None:
    images = noise(4)
    assert torch.equal(augment("none", images), images)
    assert torch.equal(augment_singly("none", images), images)


@FORMS
def test_all_crops_and_flips_are_equally_likely(form: Form) -> None:
    # Every pixel has a number of its own, so each of the 162 results names its draws.
    image = (1 + torch.arange(10 * 10)).byte().view(1, 1, 10, 10)
    top, left, flip = torch.cartesian_prod(*map(torch.arange, (9, 9, 2))).unbind(1)
    known = crop_flip(image.expand(162, -1, -1, -1), top, left, flip == 1)
    name = {each.numpy().tobytes(): index for index, each in enumerate(known)}
    assert len(name) == 162
    count = 4050
    found = form("crop-flip", image.expand(count, -1, -1, -1), 0)
    counts = torch.zeros(9, 9, 2)
    for each in found:
        counts.view(-1)[name[each.numpy().tobytes()]] += 1
    # χ² with k degrees of freedom has mean k and variance 2k: below k + 4√(2k).
    for part in (counts, counts.sum((1, 2)), counts.sum((0, 2)), counts.sum((0, 1))):
        expected = count / part.numel()
        degrees = part.numel() - 1
        chi2 = ((part - expected) ** 2 / expected).sum()
        assert chi2 < degrees + 4 * math.sqrt(2 * degrees)


def angles(images: Tensor) -> Tensor:
    """Estimate in degrees, sorted, by how much a ramp of 2 per column was turned."""
    middle = images[:, 0, 18:46, 18:46].double()
    row = torch.arange(28).double() - 13.5
    slope = (middle.mean(2) * row).sum(1) / row.square().sum()
    return torch.rad2deg(torch.asin((slope / 2).clamp(-1, 1))).sort().values


def test_angles_are_those_of_torchvision() -> None:
    count = 2000
    ramp = (torch.arange(64) * 2 + 64).byte().expand(count, 1, 64, 64)
    known = torch.linspace(-15, 15, count).double()
    # Between whole pixels small angles look alike.
    assert (angles(rotate(ramp, known)) - known).abs().max() < 2.5
    first = angles(Rotation(15.0).apply(ramp, draw(count, 1)))
    (transform,) = Rotation(15.0).transforms(64, 64)
    torch.manual_seed(0)
    second = [F.pil_to_tensor(transform(F.to_pil_image(each))) for each in ramp]
    second = angles(torch.stack(second))
    for found in (first, second):
        assert 14.8 < -found[0] < 15.2
        assert 14.8 < found[-1] < 15.2
    # Kolmogorov-Smirnov: 1.63 √(2/n) is exceeded by 1 in 100 pairs of fair samples.
    everywhere = torch.cat([first, second])
    ranks = [
        torch.searchsorted(each, everywhere, right=True) for each in (first, second)
    ]
    assert (ranks[0] - ranks[1]).abs().max() / count < 1.63 * math.sqrt(2 / count)


Sequence = tuple[tuple[str, float], ...]


def expected_sequences() -> dict[Sequence, float]:
    """What one image may undergo, and how likely that is."""
    expected: Counter[Sequence] = Counter()
    outcomes = list(itertools.product((True, False), (1, -1)))
    for pair, *both in itertools.product(policy(), outcomes, outcomes):
        share, done = 1 / len(policy()), ()
        for choice, (is_on, sign) in zip(pair, both, strict=True):
            share *= (choice.probability if is_on else 1 - choice.probability) / 2
            done += ((choice.name, choice.magnitude(sign)),) if is_on else ()
        expected[done] += share
    assert sum(expected.values()) == pytest.approx(1)
    return {done: share for done, share in expected.items() if share > 0}


def test_operations_are_as_frequent_as_the_policy_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Images that only carry a number, and operations that only write down who had them.
    count = 6000
    number = torch.arange(count)
    images = torch.stack((number % 100, number // 100), 1).view(-1, 1, 2, 1).byte()
    seen: list[Sequence] = []

    def write_down(image: Any, name: str, magnitude: float) -> Any:
        tensor = image if isinstance(image, Tensor) else F.pil_to_tensor(image)
        low, high = tensor.flatten(-3).int().unbind(-1)
        for index in (low + 100 * high).view(-1).tolist():
            seen[index] += ((name, magnitude),)
        return image

    monkeypatch.setattr(autoaugment, "apply_operation", write_down)
    expected = expected_sequences()
    for form in (batched, singly):
        seen[:] = [()] * count
        form(images)
        found = Counter(seen)
        assert set(found) <= set(expected)
        chi2 = sum((found[done] / count - p) ** 2 / p for done, p in expected.items())
        degrees = len(expected) - 1
        assert degrees > 100
        assert count * chi2 < degrees + 4 * math.sqrt(2 * degrees)


def batched(images: Tensor) -> None:
    AutoAugment().apply(images, draw(len(images), AutoAugment.num_draws))


def singly(images: Tensor) -> None:
    torch.manual_seed(0)
    (transform,) = AutoAugment().transforms(2, 1)
    for image in images:
        transform(F.to_pil_image(image))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", AUGMENTING)
def test_pixels_have_torchvisions_mean_and_variance(name: str, channels: int) -> None:
    count = 2500
    images = noise(2, (channels, 10, 10))[1:].expand(count, -1, -1, -1)
    both = [
        form(name, images, 1).flatten(1).double() for form in (augment, augment_singly)
    ]
    # In standard errors of the difference; with 300 pixels and two moments a fair
    # comparison exceeds 4.5 once in 250 times.
    means = [each.mean(0) for each in both]
    centred = [(each - mean).square() for each, mean in zip(both, means, strict=True)]
    for moments in (both, centred):
        error = sum(each.var(0) / count for each in moments).sqrt()
        difference = moments[0].mean(0) - moments[1].mean(0)
        assert (difference.abs() / error).max() < 4.5
    assert min(each.var(0).min() for each in both) > 100, "every pixel is moved"


@pytest.mark.parametrize(
    ("step", "distinct"),
    [(CropFlip(), 100), (Rotation(15.0), 100), (AutoAugment(), 50)],
)
def test_images_of_one_batch_have_draws_of_their_own(step: Any, distinct: int) -> None:
    # Of 200 draws about 115 differ among 162 crops; angles all differ, but not their
    # effect on 32 x 32 pixels; AutoAugment has about 200 outcomes of unequal chance.
    images = noise(1).expand(200, -1, -1, -1)
    draws = draw(200, step.num_draws)
    found = step.apply(images, draws)
    assert len(found.flatten(1).unique(dim=0)) >= distinct
    for index in (0, 7, 199):
        rows = slice(index, index + 1)
        assert torch.equal(step.apply(images[rows], draws[rows]), found[rows])
