"""Losses of classifiers by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from trainact.lab.errors import LabError, did_you_mean

Loss = Callable[[Tensor, Tensor, float], Tensor]


def compute(
    name: str, logits_BC: Tensor, targets: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Compute the mean loss of a batch.

    Args:
        name: a key of `LOSSES`.
        logits_BC: of the model.
        targets: labels [B] as whole numbers, or a weight for every class [B, C].
        label_smoothing: ε of `torch.nn.functional.cross_entropy`; 0 for targets that
            are smoothed already.

    Returns:
        A number.

    Raises:
        LabError: if there is no loss of that name.
    """
    if name not in LOSSES:
        raise LabError(
            f"loss {name!r} is not known{did_you_mean(name, LOSSES)}: give one of "
            f"{', '.join(LOSSES)}"
        )
    return LOSSES[name](logits_BC, targets, label_smoothing)


def check_smoothing(name: str, label_smoothing: float) -> None:
    """Refuse smoothed labels for a loss that would take every class for a right one.

    Args:
        name: of the loss.
        label_smoothing: ε.

    Raises:
        LabError: if they are for binary cross-entropy.
    """
    if name == "binary-cross-entropy" and label_smoothing:
        raise LabError(
            f"label smoothing of {label_smoothing:g} with binary-cross-entropy, which "
            "counts every class with a weight above 0 as right: give one of the two"
        )


def _cross_entropy(
    logits_BC: Tensor, targets: Tensor, label_smoothing: float
) -> Tensor:
    return F.cross_entropy(logits_BC, targets, label_smoothing=label_smoothing)


def _binary_cross_entropy(
    logits_BC: Tensor, targets: Tensor, label_smoothing: float
) -> Tensor:
    """A sigmoid for every class: all classes of a mixed image count as right ones."""
    check_smoothing("binary-cross-entropy", label_smoothing)
    if targets.ndim == 1:
        targets = F.one_hot(targets, logits_BC.shape[1])
    right_BC = (targets > 0).to(logits_BC.dtype)
    return F.binary_cross_entropy_with_logits(logits_BC, right_BC)


LOSSES: dict[str, Loss] = {
    "cross-entropy": _cross_entropy,
    "binary-cross-entropy": _binary_cross_entropy,
}
