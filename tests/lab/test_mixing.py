"""Images are mixed as timm mixes a group, however a batch is cut into pieces.

- A batch is arranged so that partners are neighbours: `test_arrange_*`.
- Whole or in pieces, the same comes out bit for bit: `test_pieces_*`.
- It is what timm makes of each group: `test_a_group_is_mixed_as_by_timm`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.data.mixup import Mixup
from torch import Tensor

from trainact.lab.config import Setting
from trainact.lab.data.mixing import Mixing, arrange, parts
from trainact.lab.errors import LabError
from trainact.lab.seeds import derive_seed

CLASSES = 5
BOTH = Setting(
    data="digits",
    model="mlp",
    epochs=1,
    batch_size=8,
    optimizer="sgd",
    lr=0.1,
    mixup=0.8,
    cutmix=1.0,
    label_smoothing=0.1,
)

sizes = st.integers(1, 40)
groups = st.integers(1, 12).map(lambda half: 2 * half)


def batch(num_images: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num_images)
    images = torch.rand(num_images, 2, 6, 7, generator=generator)
    return images, torch.randint(CLASSES, (num_images,), generator=generator)


def seeded(found: Sequence[tuple[int, int]], seed: int) -> list[tuple[int, int]]:
    return [(count, derive_seed(seed, group)) for count, group in found]


# The order of a batch.


def test_arrange_by_hand() -> None:
    assert arrange(8, 8).tolist() == [0, 7, 1, 6, 2, 5, 3, 4]
    assert arrange(8, 4).tolist() == [0, 6, 2, 4, 1, 7, 3, 5]
    assert arrange(7, 4).tolist() == [0, 3, 1, 2, 4, 6, 5]
    assert arrange(5, 9).tolist() == [0, 4, 1, 3, 2]
    assert arrange(1, 2).tolist() == [0]


@given(sizes, groups)
def test_arrange_puts_partners_side_by_side(num_images: int, group: int) -> None:
    order = arrange(num_images, group)
    assert sorted(order.tolist()) == list(range(num_images))
    num_groups = num_images // group
    for number in range(num_groups):
        members = order[number * group : (number + 1) * group]
        wanted = torch.arange(num_groups * group)[number::num_groups]
        assert sorted(members.tolist()) == wanted.tolist()
        for pair in range(group // 2):
            partners = members[2 * pair : 2 * pair + 2].tolist()
            assert partners == [wanted[pair], wanted[group - 1 - pair]]
    assert set(order[num_groups * group :].tolist()) == set(
        range(num_groups * group, num_images)
    )


def test_copies_of_an_image_are_in_different_groups() -> None:
    """As DeiT's: 2,048 images in groups of 256, each image three times."""
    order = arrange(2048, 256)
    image = torch.arange(2048) // 3
    for members in image[order].split(256):
        assert len(set(members.tolist())) == 256


def test_odd_groups_are_refused() -> None:
    with pytest.raises(LabError, match="groups of 3 images"):
        arrange(9, 3)
    assert len(arrange(3, 3)) == 3


def test_parts_by_hand() -> None:
    assert parts(0, 10, 10, 4) == [(4, 0), (4, 1), (2, 2)]
    assert parts(2, 6, 10, 4) == [(2, 0), (2, 1)]
    assert parts(8, 9, 9, 4) == [(1, 2)]
    assert parts(4, 4, 8, 4) == []
    for start, stop in ((1, 4), (0, 3)):
        with pytest.raises(ValueError, match="not whole pairs"):
            parts(start, stop, 8, 4)


# Pieces.


@st.composite
def cut_batches(draw: st.DrawFn) -> tuple[int, int, list[int]]:
    """Size of a batch and of a group, and where it is cut."""
    num_images, group = draw(sizes), draw(groups)
    cuts = draw(st.sets(st.integers(0, num_images // 2)))
    return num_images, group, sorted({0, num_images, *(2 * cut for cut in cuts)})


@given(cut_batches(), st.sampled_from([(0.8, 1.0), (0.8, 0.0), (0.0, 1.0)]), sizes)
def test_pieces_are_mixed_as_the_whole(
    cut: tuple[int, int, list[int]], alphas: tuple[float, float], seed: int
) -> None:
    num_images, group, cuts = cut
    mixing = Mixing(replace(BOTH, mixup=alphas[0], cutmix=alphas[1]), CLASSES)
    images, labels = batch(num_images)
    order = arrange(num_images, group)
    images, labels = images[order], labels[order]
    whole = mixing(
        images, labels, seeded(parts(0, num_images, num_images, group), seed)
    )
    pieces = [
        mixing(
            images[start:stop],
            labels[start:stop],
            seeded(parts(start, stop, num_images, group), seed),
        )
        for start, stop in pairwise(cuts)
    ]
    for found, wanted in zip(
        map(torch.cat, zip(*pieces, strict=True)), whole, strict=True
    ):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("num_images", "group"), [(24, 8), (14, 8), (8, 8), (6, 20)])
def test_a_group_is_mixed_as_by_timm(
    num_images: int, group: int, channels_last: bool
) -> None:
    images, labels = batch(num_images)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    order = arrange(num_images, group)
    for seed in range(6):
        found = parts(0, num_images, num_images, group)
        drawn = seeded(found, seed)
        mixed, targets = Mixing(BOTH, CLASSES)(images[order], labels[order], drawn)
        start = 0
        for (count, _), (_, own_seed) in zip(found, drawn, strict=True):
            members = order[start : start + count].sort().values
            np.random.seed(own_seed)  # noqa: NPY002
            theirs = Mixup(0.8, 1.0, label_smoothing=0.1, num_classes=CLASSES)
            wanted, wanted_targets = theirs(images[members].clone(), labels[members])
            for position, member in enumerate(members.tolist()):
                where = order.tolist().index(member)
                assert torch.equal(mixed[where], wanted[position])
                assert torch.equal(targets[where], wanted_targets[position])
            start += count


def test_an_odd_image_stays_alone() -> None:
    images, labels = batch(3)
    mixed, targets = Mixing(BOTH, CLASSES)(images, labels, [(3, 0)])
    assert torch.equal(mixed[2], images[2])
    assert not torch.equal(mixed[0], images[0])
    smoothed = torch.full((CLASSES,), 0.1 / CLASSES)
    smoothed[labels[2]] += 0.9
    torch.testing.assert_close(targets[2], smoothed)
    alone, _ = Mixing(BOTH, CLASSES)(images[:1], labels[:1], [(1, 0)])
    assert torch.equal(alone, images[:1])


def test_nothing_else_is_touched() -> None:
    images, labels = batch(4)
    before = images.clone()
    np.random.seed(3)  # noqa: NPY002
    wanted = np.random.rand()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    state = torch.get_rng_state()
    Mixing(BOTH, CLASSES)(images, labels, [(4, 7)])
    assert np.random.rand() == wanted  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, before)


def test_smoothing_for_binary_cross_entropy_is_refused() -> None:
    with pytest.raises(LabError, match="label smoothing"):
        Mixing(replace(BOTH, loss="binary-cross-entropy"), CLASSES)
    Mixing(replace(BOTH, loss="binary-cross-entropy", label_smoothing=0.0), CLASSES)


# What is drawn.

NUM_DRAWS = 3000


def draws(mixup: float, cutmix: float) -> tuple[Tensor, Tensor]:
    """(λ, whether it was CutMix) of many pairs of a white and a black image."""
    setting = replace(BOTH, mixup=mixup, cutmix=cutmix, label_smoothing=0.0)
    images = torch.stack([torch.ones(1, 32, 32), torch.zeros(1, 32, 32)])
    images = images.repeat(NUM_DRAWS, 1, 1, 1)
    labels = torch.tensor([0, 1]).repeat(NUM_DRAWS)
    seeded_parts = [(2, derive_seed(0, draw)) for draw in range(NUM_DRAWS)]
    mixed, targets = Mixing(setting, 2)(images, labels, seeded_parts)
    lams = targets[0::2, 0]
    torch.testing.assert_close(mixed[0::2].mean((1, 2, 3)), lams, atol=1e-5, rtol=0)
    torch.testing.assert_close(targets.sum(1), torch.ones(len(targets)))
    is_cut = ((mixed[0::2] == 0) | (mixed[0::2] == 1)).flatten(1).all(1)
    return lams, is_cut


def test_lambda_of_mixup_is_a_beta_variable() -> None:
    lams, is_cut = draws(0.8, 0.0)
    assert is_cut.float().mean() < 0.01
    assert lams.mean().item() == pytest.approx(0.5, abs=0.03)
    assert lams.var().item() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), abs=0.006)


def test_lambda_of_cutmix_is_the_share_that_stays() -> None:
    """1 less the area of a square of side √u, u uniform, that the border cuts off.

    In one direction r - r² / 4 of a side r is left on average, if its middle is
    anywhere: the mean of (r - r² / 4)² over u = r² is 1 / 2 - 1 / 5 + 1 / 48.
    """
    lams, is_cut = draws(0.0, 1.0)
    assert is_cut.all()
    mean = 1 - (1 / 2 - 1 / 5 + 1 / 48)
    # A side is rounded down to whole pixels, of which the image has 32.
    assert mean - 0.01 < lams.mean() < mean + 0.03


def test_each_is_drawn_half_of_the_time() -> None:
    _, is_cut = draws(0.8, 1.0)
    assert is_cut.float().mean().item() == pytest.approx(0.5, abs=0.04)
