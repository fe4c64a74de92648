"""Figure 6: the effect of λ."""

from __future__ import annotations

from dataclasses import replace

from trainact.lab.recipe import Recipe
from trainact.lab.recipes.common import arms
from trainact.lab.recipes.fig4 import fig4

LAMS = (0.00625, 0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)


def fig6() -> Recipe:
    """The transformer of Figure 4 for 200 epochs with nine values of λ: Figure 6.

    Source: Section 4.4 of the paper.
    Hardware: one RTX 4090 in the paper.
    Numbers: none are printed; the plot's axis runs from 90.0 to 91.5 %.

    Returns:
        The recipe.
    """
    return replace(
        fig4(200),
        name="fig6",
        artefact="Figure 6",
        arms=arms(LAMS),
        claim="TrAct hardly depends on λ over a range of 256 to 1.",
    )
