"""Beyond the paper: which optimizer TrAct is best paired with."""

from __future__ import annotations

from typing import Any

from trainact.lab.config import Setting
from trainact.lab.recipe import Arm, Recipe
from trainact.lab.recipes.common import PAIRED

# The same for every arm: the budget of its tuning.
RATES = {
    "sgd": (0.05, 0.1, 0.2, 0.4, 0.8),
    "adam": (0.001, 0.003, 0.01, 0.03, 0.1),
    "adamw": (0.001, 0.003, 0.01, 0.03),
    "lamb": (0.003, 0.01, 0.03, 0.1),
    "muon": (0.001, 0.003, 0.01, 0.03, 0.1),
}
TUNED = tuple((name, lr) for name in ("sgd", "adam", "adamw") for lr in RATES[name])
_DATA: dict[str, dict[str, Any]] = {
    "digits": {"data": "digits", "batch_size": 64},
    "cifar10": {
        "data": "cifar10",
        "limit": 10_000,
        "batch_size": 128,
        "augment": "crop-flip",
        "normalise": "cifar10",
        # A third faster on a CPU.
        "channels_last": True,
    },
}
# Data and epochs.
PROBLEMS = (("digits", 4), ("cifar10", 8), ("cifar10", 30))
LAM = 0.1
# Of the first layer's own SGD: the middle one of SGD's.
_FIRST_LAYER_LR = 0.1

PAIRED_ARMS = (Arm("vanilla"), Arm("tract", LAM))
# With an optimizer of the first layer's own.
APART_ARMS = (
    Arm("tract+sgd", LAM),
    Arm("tract+row-adam", LAM),
    Arm("vanilla+sgd"),
    Arm("vanilla+row-adam"),
)


def optimizers(problem: tuple[str, int], tuned: tuple[str, float]) -> Recipe:
    """A small CNN on few images, with several ways of taking TrAct's step.

    Source: none; this project's own question, whether Adam undoes TrAct.
    Hardware: made for a CPU.
    Numbers: none in the paper.

    Args:
        problem: ``digits``, or ``cifar10`` for 10,000 images of it; and epochs of the
            cosine.
        tuned: ``sgd``, ``adam`` or ``adamw``, and a learning rate for all arms.

    Returns:
        The recipe.
    """
    data, epochs = problem
    optimizer, lr = tuned
    return Recipe(
        name=f"optimizers-{data}-{epochs}-{optimizer}-{lr:g}",
        artefact="Optimizers",
        setting=study_setting("small-cnn", problem, tuned),
        seeds=tuple(range(10 if data == "digits" else 5)),
        arms=PAIRED_ARMS if optimizer == "sgd" else (*PAIRED_ARMS, *APART_ARMS),
        claim="With Adam at 100 epochs and more TrAct gains (Figure 3), and a little "
        "more if SGD trains the first layer (Figure 9).",
        deviations=(PAIRED,),
    )


def study_setting(
    model: str, problem: tuple[str, int], tuned: tuple[str, float]
) -> Setting:
    """Say how a study trains.

    Args:
        model: built-in name.
        problem: as for `optimizers`.
        tuned: likewise.

    Returns:
        The setting.
    """
    data, epochs = problem
    optimizer, lr = tuned
    return Setting(
        model=model,
        epochs=epochs,
        drop_last=True,
        optimizer=optimizer,
        lr=lr,
        weight_decay=0.01 if optimizer == "adamw" else 0.0,
        first_layer_lr=None if optimizer == "sgd" else _FIRST_LAYER_LR,
        schedule="cosine",
        **_DATA[data],
    )
