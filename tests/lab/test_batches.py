"""Every share of a batch together is the batch, whatever it is divided into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.lab.conftest import CONFIG
from trainact.lab.config import Setting
from trainact.lab.data.batches import WHOLE, Batch, Batches, Share
from trainact.lab.errors import LabError


class Numbers(Batches):
    """Images are their numbers."""

    def __iter__(self) -> Iterator[Batch]:
        start = self.take_start()
        yield from self.counted(self._batches(start), start)

    def _batches(self, start: int) -> Iterator[Batch]:
        order, _ = self.draw_order()
        for index in range(start, len(self)):
            numbers = order[self.positions(index)]
            yield numbers, numbers


def setting(**changes: object) -> Setting:
    return replace(CONFIG.setting, **changes)


def numbers(batches: Batches, epoch: int = 0) -> list[list[int]]:
    batches.set_epoch(epoch)
    return [images.tolist() for images, _ in batches]


@st.composite
def divided(draw: st.DrawFn) -> tuple[int, Setting, int, int]:
    """Number of images, setting, processes, pieces."""
    chosen = setting(
        batch_size=draw(st.integers(1, 40)),
        drop_last=draw(st.booleans()),
        repeats=draw(st.integers(1, 3)),
        mixup=draw(st.sampled_from([0.0, 0.8])),
        mix_group=draw(st.sampled_from([0, 4, 6])),
    )
    return (
        draw(st.integers(1, 90)),
        chosen,
        draw(st.integers(1, 4)),
        draw(st.integers(1, 3)),
    )


@given(case=divided())
def test_shares_are_the_batch(case: tuple[int, Setting, int, int]) -> None:
    num_images, chosen, num_ranks, pieces = case
    try:
        whole = Numbers(3, chosen, num_images)
        ranks = [
            Numbers(3, chosen, num_images, Share(rank, num_ranks, pieces))
            for rank in range(num_ranks)
        ]
    except LabError:
        assume(False)
        raise
    expected = numbers(whole)
    shares = [numbers(rank) for rank in ranks]
    for step, batch in enumerate(expected):
        mine = range(step * pieces, (step + 1) * pieces)
        found = [part for share in shares for part in share[mine[0] : mine[-1] + 1]]
        assert list(chain.from_iterable(found)) == batch
        assert all(found), "every micro-batch has an image"
        portions = [rank.portion(index) for rank in ranks for index in mine]
        for part, portion in zip(found, portions, strict=True):
            # What Lightning and DDP make of a mean over the micro-batch.
            factor = portion.weight / (num_ranks * pieces)
            assert factor == pytest.approx(len(part) / len(batch))
            if chosen.mixup:
                assert sum(count for count, _ in portion.mixed) == len(part)
        seeds = dict.fromkeys(seed for portion in portions for _, seed in portion.mixed)
        assert list(seeds) == [seed for _, seed in whole.portion(step).mixed]


@given(case=divided(), start=st.integers(0, 300))
def test_an_epoch_goes_on_where_it_was(
    case: tuple[int, Setting, int, int], start: int
) -> None:
    num_images, chosen, num_ranks, pieces = case
    share = Share(num_ranks - 1, num_ranks, pieces)
    try:
        first = Numbers(0, chosen, num_images, share)
    except LabError:
        assume(False)
        raise
    expected = numbers(first, 2)
    start %= len(expected)
    again = Numbers(0, chosen, num_images, share)
    again.load_state_dict({"taken": start, "pieces": pieces})
    assert numbers(again, 2) == expected[start:]
    assert again.state_dict() == {"taken": len(expected), "pieces": pieces}
    assert numbers(again, 2) == expected, "the next one is whole"


def test_another_number_of_pieces_is_refused_inside_an_epoch() -> None:
    batches = Numbers(0, setting(batch_size=8), 64, Share(pieces=2))
    with pytest.raises(LabError, match="with 4 micro-batches a step and now there are"):
        batches.load_state_dict({"taken": 3, "pieces": 4})


def test_every_image_once_and_no_order_twice() -> None:
    batches = Numbers(0, setting(batch_size=8), 50)
    first, second = (
        list(chain.from_iterable(numbers(batches, epoch))) for epoch in (0, 1)
    )
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second


def test_repeated_augmentation() -> None:
    """A third of the images, three times each, never two of a kind in one group."""
    chosen = setting(batch_size=64, repeats=3, cutmix=1.0, mix_group=16)
    batches = Numbers(0, chosen, 600)
    epoch = numbers(batches)
    assert sum(map(len, epoch)) == 512, "a multiple of 256, as in DeiT's code"
    assert len(set(chain.from_iterable(epoch))) == -(-512 // 3)
    for batch in epoch:
        for group in torch.tensor(batch).split(16):
            assert len(set(group.tolist())) == 16


def test_partners_travel_together() -> None:
    chosen = setting(batch_size=32, mixup=0.8)
    whole = numbers(Numbers(0, chosen, 32))[0]
    order, _ = Numbers(0, chosen, 32).draw_order()
    pairs = {frozenset(whole[i : i + 2]) for i in range(0, 32, 2)}
    flipped = zip(order.tolist(), order.flip(0).tolist(), strict=True)
    assert pairs == {frozenset(pair) for pair in flipped}


@pytest.mark.parametrize(
    ("changes", "share", "says"),
    [
        ({"batch_size": 8, "drop_last": True}, WHOLE, "less than one batch of 8"),
        ({"batch_size": 4}, Share(0, 4), "smallest batch has 3 images"),
        ({"batch_size": 4, "mixup": 0.8}, Share(0, 3), "one pair of images for each"),
        ({"batch_size": 7}, Share(0, 2, 4), "2 processes, 4 micro-batches each"),
    ],
)
def test_too_few_images(changes: dict[str, object], share: Share, says: str) -> None:
    with pytest.raises(LabError, match=says):
        Numbers(0, setting(**changes), 7, share)
