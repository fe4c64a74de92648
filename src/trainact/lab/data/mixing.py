"""Mixup and CutMix, alike on any number of devices and in any micro-batches.

A batch is divided into groups, each of which is mixed with one draw, as DeiT's code
mixes what lies on one GPU: every image with one partner of its group. `arrange` puts
partners next to each other, so that wherever a batch is cut between two pairs, each
piece holds all that it needs. What is drawn depends on the seed of a group alone.

timm draws and mixes. Its partners are the first and the last image, the second and the
second last, and so on; of neighbours that is made here, for each piece anew.

Shape suffixes: B images, C channels or classes, H height, W width.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from trainact.lab.config import Setting
from trainact.lab.errors import LabError
from trainact.lab.losses import check_smoothing


def arrange(num_images: int, group: int) -> Tensor:
    """Order a batch so that groups follow each other and partners are neighbours.

    Of G groups, group g has the images g, g + G, g + 2G, and so on, as DeiT deals a
    batch out to G GPUs: neighbours in the batch, such as copies of one image, are in
    different groups. What is left when all groups are whole is one smaller group; if
    it is odd, its middle image comes last and has no partner.

    Args:
        num_images: in the batch.
        group: images in a group.

    Returns:
        Positions in the batch, each once, in their new order.

    Raises:
        LabError: if there are several groups of an odd size.
    """
    if group % 2 and num_images > group:
        raise LabError(
            f"groups of {group} images to be mixed leave one without a partner: give "
            "an even number"
        )
    num_groups, num_left = divmod(num_images, group)
    positions = torch.arange(num_images)
    whole, left = positions.split([num_groups * group, num_left])
    groups = [whole[first::num_groups] for first in range(num_groups)] + [left]
    return torch.cat([members[_as_neighbours(len(members))] for members in groups])


def _as_neighbours(size: int) -> Tensor:
    """0, size - 1, 1, size - 2, and so on."""
    order = torch.arange(size)
    return torch.stack([order, order.flip(0)], 1).flatten()[:size]


def parts(start: int, stop: int, num_images: int, group: int) -> list[tuple[int, int]]:
    """Say how many images of which group a piece of an arranged batch has.

    Args:
        start: first image of the piece.
        stop: first image after it.
        num_images: in the batch.
        group: images in a group.

    Returns:
        (number of images, number of the group) in the order of the piece.

    Raises:
        ValueError: if the piece begins or ends between two partners.
    """
    if start % 2 or (stop % 2 and stop != num_images):
        msg = f"images {start} to {stop} of {num_images} are not whole pairs"
        raise ValueError(msg)
    found: list[tuple[int, int]] = []
    while start < stop:
        number = start // group
        end = min(stop, (number + 1) * group)
        found.append((end - start, number))
        start = end
    return found


class Mixing:
    """Mixes images and makes soft targets of their labels.

    Args:
        setting: whose `mixup`, `cutmix` and `label_smoothing` are used; where both are
            above 0, each is drawn half of the time.
        num_classes: of the data.
    """

    def __init__(self, setting: Setting, num_classes: int) -> None:
        from timm.data.mixup import Mixup

        check_smoothing(setting.loss, setting.label_smoothing)
        self._mixup = Mixup(
            mixup_alpha=setting.mixup,
            cutmix_alpha=setting.cutmix,
            prob=1.0,
            switch_prob=0.5,
            mode="batch",
            label_smoothing=setting.label_smoothing,
            num_classes=num_classes,
        )

    def __call__(
        self, images_BCHW: Tensor, labels_B: Tensor, parts: Iterable[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Mix a piece of an arranged batch.

        Args:
            images_BCHW: floating-point, on any device; they stay as they are.
            labels_B: whole numbers.
            parts: (number of images, seed) of each group that has images in the piece,
                in their order; B images in all. In an odd number the last image stays
                alone.

        Returns:
            (mixed images [B, C, H, W], weight of every class [B, C]).
        """
        from timm.data.mixup import mixup_target

        mixed_BCHW = images_BCHW.clone()
        targets_BC = mixup_target(
            labels_B, self._mixup.num_classes, 1.0, self._mixup.label_smoothing
        )
        start = 0
        for count, seed in parts:
            end = start + count - count % 2
            pairs = torch.arange(start, end, device=labels_B.device)
            # The first neighbour of every pair, then the second ones backwards: timm's
            # partners.
            order = torch.cat([pairs[0::2], pairs[1::2].flip(0)])
            if len(order):
                with _global_seed(seed):
                    mixed_BCHW[order], targets_BC[order] = self._mixup(
                        images_BCHW[order], labels_B[order]
                    )
            start += count
        return mixed_BCHW, targets_BC


@contextmanager
def _global_seed(seed: int) -> Generator[None]:
    """Seed numpy's global generator, from which timm draws, and put it back."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
