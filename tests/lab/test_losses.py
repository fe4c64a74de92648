"""Losses on worked values, and as timm has them."""

from __future__ import annotations

import math

import pytest
import torch
from timm.loss import (
    BinaryCrossEntropy,
    LabelSmoothingCrossEntropy,
    SoftTargetCrossEntropy,
)
from torch.nn.functional import one_hot

from trainact.lab.errors import LabError
from trainact.lab.losses import LOSSES, check_smoothing, compute
from trainact.lab.recipes import RECIPES

LOGITS = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).double()
LABELS = torch.tensor([2, 0, 1, 1])
SOFT = torch.tensor(
    [[0.0, 0.3, 0.7], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.2, 0.2, 0.6]]
).double()


def test_every_recipe_names_one() -> None:
    used = {recipe.setting.loss for recipe in RECIPES.values()}
    assert used <= set(LOSSES)
    with pytest.raises(LabError, match="did you mean 'cross-entropy'"):
        compute("cross-entrop", LOGITS, LABELS)


# Cross-entropy.


def test_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)]])
    assert compute("cross-entropy", logits, torch.tensor([0])).item() == pytest.approx(
        math.log(4)
    )
    soft = torch.tensor([[0.25, 0.75]])
    wanted = math.log(4) - 0.75 * math.log(3)
    assert compute("cross-entropy", logits, soft).item() == pytest.approx(wanted)
    smoothed = compute("cross-entropy", logits, torch.tensor([1]), 0.5)
    assert smoothed.item() == pytest.approx(wanted)


def test_cross_entropy_is_timms() -> None:
    torch.testing.assert_close(
        compute("cross-entropy", LOGITS, SOFT), SoftTargetCrossEntropy()(LOGITS, SOFT)
    )
    torch.testing.assert_close(
        compute("cross-entropy", LOGITS, LABELS, 0.1),
        LabelSmoothingCrossEntropy(0.1)(LOGITS, LABELS),
    )


# Binary cross-entropy.


def test_binary_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0, -math.log(3.0)]])
    targets = torch.tensor([[0.01, 0.0, 0.99]])
    # -log of 3 / 4, of 1 - 1 / 2 and of 1 / 4
    wanted = (math.log(4 / 3) + math.log(2) + math.log(4)) / 3
    found = compute("binary-cross-entropy", logits, targets)
    assert found.item() == pytest.approx(wanted)


def test_every_class_of_a_mixed_image_counts_as_right() -> None:
    right = (SOFT > 0).double()
    wanted = -(
        right * LOGITS.sigmoid().log() + (1 - right) * (-LOGITS).sigmoid().log()
    ).mean()
    torch.testing.assert_close(compute("binary-cross-entropy", LOGITS, SOFT), wanted)


def test_binary_cross_entropy_is_timms() -> None:
    theirs = BinaryCrossEntropy(smoothing=0.0, target_threshold=0.0)(LOGITS, SOFT)
    torch.testing.assert_close(compute("binary-cross-entropy", LOGITS, SOFT), theirs)


def test_labels_are_one_class_each() -> None:
    torch.testing.assert_close(
        compute("binary-cross-entropy", LOGITS, LABELS),
        compute("binary-cross-entropy", LOGITS, one_hot(LABELS, 3)),
    )


def test_smoothed_labels_are_refused() -> None:
    for call in (
        lambda: compute("binary-cross-entropy", LOGITS, LABELS, 0.1),
        lambda: check_smoothing("binary-cross-entropy", 0.1),
    ):
        with pytest.raises(LabError, match=r"label smoothing of 0\.1 with binary"):
            call()
    check_smoothing("binary-cross-entropy", 0.0)
    check_smoothing("cross-entropy", 0.1)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("targets", [LABELS, SOFT.float()], ids=["labels", "soft"])
def test_under_autocast_the_loss_has_32_bits(name: str, targets: torch.Tensor) -> None:
    logits = LOGITS.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = compute(name, logits, targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, compute(name, logits.float(), targets))
