"""Beyond the paper: with which first layers TrAct helps, and with which it hurts."""

from __future__ import annotations

from dataclasses import replace

from trainact.lab.recipe import Arm, Recipe
from trainact.lab.recipes.common import PAIRED
from trainact.lab.recipes.optimizer_study import PAIRED_ARMS, study_setting

_EPOCHS = 6
# Network, images of a batch, entries n of a row of X, and the learning rate from which
# `trainact sweep --tuned` goes on.
_KINDS = {
    "linear-64": ("mlp", 64, 3072, 0.05),
    "linear-512": ("mlp", 512, 3072, 0.05),
    "patch-4": ("small-patches-4", 64, 48, 0.2),
    "patch-16": ("small-patches-16", 64, 768, 0.2),
    "conv-3": ("small-cnn", 64, 27, 0.2),
}
KINDS = tuple(_KINDS)


def first_layer_kind(kind: str) -> Recipe:
    """One of five first layers on 10,000 CIFAR-10 images: small and large λ, averaging.

    The large λ is n / 10. On standardised inputs the eigenvalues of A add up to about
    n, so at most ten of them are above it; λ = 0.1, a tenth of their mean, evens out
    all that are larger. ``tract-running`` averages A over some ten batches.

    Source: none; this project's own question.
    Hardware: made for a CPU.
    Numbers: none in the paper.

    Args:
        kind: one of `KINDS`: a linear layer on the whole image in batches of 64 or of
            512, patches of 4 or 16 pixels, or a 3x3 convolution.

    Returns:
        The recipe.
    """
    model, batch_size, entries, lr = _KINDS[kind]
    setting = study_setting(model, ("cifar10", _EPOCHS), ("sgd", lr))
    large = Arm("tract", float(round(entries / 10)))
    return Recipe(
        name=f"layers-{kind}",
        artefact="Kinds of first layers",
        setting=replace(setting, batch_size=batch_size),
        seeds=(1, 2, 3),
        arms=(*PAIRED_ARMS, large, Arm("tract-running", PAIRED_ARMS[1].lam)),
        claim="TrAct helps convolutions and patch embeddings; no network of the paper "
        "begins with a linear layer on whole images.",
        deviations=(PAIRED,),
    )
