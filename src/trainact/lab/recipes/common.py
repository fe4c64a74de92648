"""What recipes have in common: lengths, arms and sentences about them."""

from __future__ import annotations

from trainact.lab.recipe import Arm

LENGTHS: tuple[int, ...] = (100, 200, 400, 800)
LAMS = (0.05, 0.1, 0.2)

# Unverified in every recipe.
LAST_EPOCH = (
    "Whether accuracies are those of the last or of the best epoch: the last, which is "
    "what the released script ends with."
)
SEEDS = "Which five seeds: 0 to 4, since the released script counts from 0."

# Deviations of every recipe.
DRAWN = (
    "Random numbers are drawn otherwise than in the source: the same seed gives other "
    "weights and batches."
)
PAIRED = (
    "The arms of a seed share initial weights, order of images and augmentations; in "
    "the paper's code, wrapping a layer draws numbers that shift them."
)


def arms(lams: tuple[float, ...] = LAMS) -> tuple[Arm, ...]:
    """List vanilla training and TrAct.

    Args:
        lams: values of λ.

    Returns:
        The arms.
    """
    return (Arm("vanilla"), *(Arm("tract", lam) for lam in lams))
