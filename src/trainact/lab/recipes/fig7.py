"""Figure 7: PatchNorm and Dual PatchNorm beside TrAct."""

from __future__ import annotations

from dataclasses import replace

from trainact.lab.recipe import Arm, Recipe
from trainact.lab.recipes.fig4 import fig4


def fig7(epochs: int) -> Recipe:
    """Figure 4 with two more arms, PatchNorm and Dual PatchNorm: Figure 7.

    Source: Section 4.5 of the paper; Kumar, Dehghani and Houlsby (TMLR 2023) for Dual
    PatchNorm.
    Hardware: one RTX 4090 in the paper.
    Numbers: none are printed; the plot's axis runs from 88.0 to 92.5 %.

    Args:
        epochs: 100, 200, 400 or 800.

    Returns:
        The recipe.
    """
    parent = fig4(epochs)
    return replace(
        parent,
        name=f"fig7-{epochs}",
        artefact="Figure 7",
        arms=(*parent.arms, Arm("patchnorm"), Arm("dual-patchnorm")),
        claim="Normalised patches help for up to 400 epochs, less than TrAct but for "
        "Dual PatchNorm after 200; after 800 they are no better than vanilla training "
        "and TrAct still is.",
        unverified=(
            *parent.unverified,
            "The ε under the roots of both patch norms: 1e-5, as torch's LayerNorm "
            "has it; Dual PatchNorm's own code has Flax's 1e-6.",
        ),
    )
