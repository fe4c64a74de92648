"""Figure 8: inputs that are not standardised."""

from __future__ import annotations

from dataclasses import replace

from trainact.lab.recipe import Recipe
from trainact.lab.recipes.common import arms
from trainact.lab.recipes.fig4 import fig4

LAMS = (0.00625, 0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8)
CLAIMS = {
    "0-1": "Inputs that are never negative harm TrAct, and vanilla training more.",
    "0-255": "Vanilla training breaks down; TrAct does not, is better than with inputs "
    "in [0, 1] and hardly depends on λ.",
}


def fig8(pixels: str) -> Recipe:
    """The transformer of Figure 4 for 200 epochs on raw pixels: Figure 8.

    Source: Section 4.5 of the paper.
    Hardware: one RTX 4090 in the paper.
    Numbers: none are printed; the plot's axis runs from 75 to 90 %.

    Args:
        pixels: ``0-1`` or ``0-255``, the range of the inputs.

    Returns:
        The recipe.
    """
    parent = fig4(200)
    return replace(
        parent,
        name=f"fig8-{pixels}",
        artefact="Figure 8",
        setting=replace(parent.setting, normalise=pixels),
        arms=arms(LAMS),
        claim=CLAIMS[pixels],
        unverified=(
            *parent.unverified,
            "The learning rate: that of Figure 4, 10^-3.2, tuned on standardised "
            "inputs.",
        ),
    )
