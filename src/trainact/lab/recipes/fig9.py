"""Figure 9: SGD for the layer that TrAct trains, Adam for the rest."""

from __future__ import annotations

from dataclasses import replace

from trainact.lab.recipe import Arm, Recipe
from trainact.lab.recipes.fig3 import fig3


def fig9(epochs: int) -> Recipe:
    """Figure 3 with Adam and one more arm, whose first layer SGD trains: Figure 9.

    Source: Section 4.5 of the paper.
    Hardware: one RTX 4090 in the paper.
    Numbers: none are printed; the plot's axis runs from 89 to 93 %.

    Args:
        epochs: 100, 200, 400 or 800.

    Returns:
        The recipe.
    """
    parent = fig3("adam", epochs)
    return replace(
        parent,
        name=f"fig9-{epochs}",
        artefact="Figure 9",
        arms=(*parent.arms, Arm("tract+sgd", 0.1)),
        claim="SGD for the first layer makes TrAct a little better still.",
        unverified=(
            *parent.unverified,
            "The rate of the first layer's SGD: 0.08, the best of vanilla SGD in "
            "Figure 3, with the same cosine as Adam's rate.",
            "The momentum of the first layer's SGD: 0.9, as everywhere in the paper.",
            "λ of that arm: 0.1, the paper's default.",
        ),
    )
