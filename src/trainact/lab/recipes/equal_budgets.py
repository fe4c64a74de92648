"""Beyond the paper: complete trainings of several lengths, to compare budgets."""

from __future__ import annotations

from trainact.lab.recipe import Arm, Recipe
from trainact.lab.recipes.common import LAMS, PAIRED
from trainact.lab.recipes.optimizer_study import LAM, study_setting

BUDGETS = (4, 8, 16, 32)
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
