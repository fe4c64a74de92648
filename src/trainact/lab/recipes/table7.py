"""Table 7: the networks of Table 1 with TrAct for two thirds of the epochs."""

from __future__ import annotations

from dataclasses import replace

from trainact.lab.recipe import Arm, Recipe
from trainact.lab.recipes.paper_table import PAPER_TABLE
from trainact.lab.recipes.table1 import table1


def table7(model: str) -> Recipe:
    """A network of Table 1 with TrAct for 133 instead of 200 epochs: Table 7.

    Source: Section 4.2 of the paper.
    Hardware: one RTX 4090 in the paper, which gives no times.
    Numbers: those of Table 7 stand with the arm, to be compared with vanilla training
    for 200 epochs, which is an arm of the recipe of Table 1.

    Args:
        model: name in pytorch-cifar100, a key of `PAPER_TABLE`.

    Returns:
        The recipe.
    """
    parent = table1(model)
    return replace(
        parent,
        name=f"table7-{model}",
        artefact="Table 7",
        # Two thirds of 60, 120 and 160, each less one as in Table 1.
        setting=replace(parent.setting, epochs=133, milestones=(39, 79, 106)),
        arms=(Arm("tract", 0.1, expected=PAPER_TABLE[model].tract_133),),
        claim="TrAct for 133 epochs is on average a little better than vanilla "
        "training for 200.",
        unverified=(
            *parent.unverified,
            "The schedule of 133 epochs: the rate falls after two thirds of Table 1's "
            "epochs, 40, 80 and 107, each less one as there.",
        ),
    )
