"""Beyond the paper: complete trainings of several lengths, to compare budgets."""

from __future__ import annotations

from dataclasses import replace

from trainact.lab.recipe import Arm, Recipe
from trainact.lab.recipes.common import LAMS, PAIRED
from trainact.lab.recipes.fig3 import fig3
from trainact.lab.recipes.optimizer_study import LAM, PAIRED_ARMS, study_setting

BUDGETS = (4, 8, 16, 32)
WHOLE_BUDGETS = (10, 20, 40)
RESNET_BUDGETS = (8, 16)
_FIRST_RATE = 0.2  # `trainact sweep --tuned` goes on from there


def equal_budgets(epochs: int) -> Recipe:
    """A small CNN on 10,000 CIFAR-10 images, each length with a schedule of its own.

    Source: none; how many fewer epochs TrAct needs, see `trainact.lab.analysis`.
    Hardware: made for a CPU.
    Numbers: none in the paper.

    Args:
        epochs: one of `BUDGETS`.

    Returns:
        The recipe; three values of λ at 16 epochs.
    """
    lams = LAMS if epochs == 16 else (LAM,)
    whitening = (Arm("whitening"),) if epochs > BUDGETS[0] else ()
    return Recipe(
        name=f"equal-budgets-{epochs}",
        artefact="Equal budgets",
        setting=study_setting("small-cnn", ("cifar10", epochs), ("sgd", _FIRST_RATE)),
        seeds=(1, 2, 3, 4, 5),
        arms=(Arm("vanilla"), *(Arm("tract", lam) for lam in lams), *whitening),
        claim="TrAct is as accurate after a fourth to four fifths of the epochs.",
        deviations=(PAIRED,),
    )


def whole_budgets(epochs: int) -> Recipe:
    """The small CNN on all 50,000 CIFAR-10 images: whether the gain lasts.

    Source: none; as ``equal-budgets``, with all images.
    Hardware: made for a CPU.
    Numbers: none in the paper.

    Args:
        epochs: one of `WHOLE_BUDGETS`.

    Returns:
        The recipe.
    """
    parent = equal_budgets(BUDGETS[0])
    return replace(
        parent,
        name=f"whole-cifar10-{epochs}",
        setting=replace(parent.setting, epochs=epochs, limit=None),
        seeds=(1, 2, 3),
        arms=PAIRED_ARMS,
    )


def resnet_budgets(epochs: int) -> Recipe:
    """The paper's ResNet-18 on 10,000 CIFAR-10 images, at the paper's learning rate.

    Source: Figure 3 of the paper, with a fifth of the images and a tenth of the epochs.
    Hardware: made for a CPU.
    Numbers: none in the paper.

    Args:
        epochs: one of `RESNET_BUDGETS`.

    Returns:
        The recipe; TrAct in the shortest alone.
    """
    parent = fig3("sgd", 100)
    return replace(
        parent,
        name=f"resnet-budgets-{epochs}",
        artefact="Equal budgets of ResNet-18",
        # A third faster on a CPU.
        setting=replace(
            parent.setting, epochs=epochs, limit=10_000, channels_last=True
        ),
        seeds=(1, 2, 3),
        arms=PAIRED_ARMS if epochs == RESNET_BUDGETS[0] else PAIRED_ARMS[:1],
    )
