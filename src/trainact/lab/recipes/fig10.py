"""Figure 10: ResNet-18 on CIFAR-100."""

from __future__ import annotations

from dataclasses import replace

from trainact.lab.recipe import Recipe
from trainact.lab.recipes.fig3 import fig3


def fig10(optimizer: str, epochs: int) -> Recipe:
    """Figure 3 on CIFAR-100: Figure 10.

    Source: Section 4.2 of the paper and the figure's caption.
    Hardware: one RTX 4090 in the paper.
    Numbers: none are printed; the plot's axis runs from 60 to 68 %.

    Args:
        optimizer: ``sgd`` or ``adam``.
        epochs: 100, 200, 400 or 800.

    Returns:
        The recipe.
    """
    parent = fig3(optimizer, epochs)
    return replace(
        parent,
        name=f"fig10-{optimizer}-{epochs}",
        artefact="Figure 10",
        setting=replace(parent.setting, data="cifar100"),
        claim="TrAct is more accurate with both optimizers, at every length and λ.",
        unverified=(
            *parent.unverified,
            "The learning rates, tuned for CIFAR-100 and not printed: those of "
            "Figure 3.",
            "The lengths: 100 to 800 epochs, as in the caption; the plot's axis ends "
            "at 100.",
            "Mean and std of the inputs: CIFAR-10's, as in the released script, which "
            "does not change them for CIFAR-100.",
        ),
    )
