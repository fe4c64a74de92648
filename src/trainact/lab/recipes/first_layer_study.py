"""Beyond the paper: every known treatment of a first layer, and TrAct's extensions."""

from __future__ import annotations

from dataclasses import replace

from trainact.lab.recipe import Arm, Recipe
from trainact.lab.recipes.common import PAIRED
from trainact.lab.recipes.optimizer_study import LAM, RATES, study_setting

_EPOCHS = 8
# Network, and how it is trained.
_TRAINED = (
    ("small-cnn", "sgd"),
    ("small-cnn", "adam"),
    ("small-cnn", "lamb"),
    ("small-cnn", "muon"),
    ("small-vit", "adamw"),
    ("small-mixer", "adamw"),
    ("small-resnet", "sgd"),
    # The network of the paper's Figure 3.
    ("cifar:resnet18-maxpool", "sgd"),
)
STUDIED = tuple((*how, lr) for how in _TRAINED for lr in RATES[how[1]])
_ON_DIGITS = (
    ("small-cnn", "sgd"),
    ("small-resnet", "sgd"),
    *(("small-vit", optimizer) for optimizer in ("adamw", "sgd", "lamb", "muon")),
    ("small-mixer", "adamw"),
)
# Their first layers have no bias to be solved for.
_WITHOUT_BIAS = ("small-resnet", "cifar:resnet18-maxpool")
DIGITS = tuple((*how, lr) for how in _ON_DIGITS for lr in RATES[how[1]])
_RIVALS = (
    Arm("vanilla"),
    Arm("tract", LAM),
    Arm("patchnorm"),
    Arm("dual-patchnorm"),
    Arm("whitening"),
    Arm("whitening+tract", LAM),
    Arm("zca"),
    Arm("kfac", LAM),
)
_OWN_OPTIMIZERS = (
    Arm("tract+sgd", LAM),
    Arm("tract+row-adam", LAM),
    Arm("vanilla+muon"),
    Arm("vanilla+soap"),
)
_EXTENSIONS = tuple(
    Arm(f"tract-{name}", LAM)
    for name in (
        *("relative", "joint", "scaled", "running", "sampled", "rising", "falling"),
        "all",
    )
)


def first_layer(studied: tuple[str, str, float]) -> Recipe:
    """Small networks on 10,000 CIFAR-10 images, with every treatment of a first layer.

    Source: none; this project's own comparison.
    Hardware: made for a CPU.
    Numbers: none in the paper.

    Args:
        studied: network, optimizer and a learning rate for all arms.

    Returns:
        The recipe; SOAP and Muon are arms where the optimizer's learning rates are of
        Adam's size, ``tract-joint`` where the first layer has a bias.
    """
    model, optimizer, lr = studied
    own = _OWN_OPTIMIZERS if optimizer in ("adam", "adamw") else ()
    refused = "tract-joint" if model in _WITHOUT_BIAS else None
    return Recipe(
        name=f"first-layer-{model.rpartition(':')[2]}-{optimizer}-{lr:g}",
        artefact="First layers",
        setting=study_setting(model, ("cifar10", _EPOCHS), (optimizer, lr)),
        seeds=(0, 1, 2),
        arms=(*_RIVALS, *own, *(a for a in _EXTENSIONS if a.method != refused)),
        claim="TrAct alone gains more than PatchNorm and Dual PatchNorm (Figure 7).",
        deviations=(PAIRED,),
    )


def digits(studied: tuple[str, str, float]) -> Recipe:
    """Small networks on scikit-learn's digits, with every treatment of a first layer.

    Source: none; this project's own comparison, in minutes.
    Hardware: made for a CPU.
    Numbers: none in the paper.

    Args:
        studied: as for `first_layer`.

    Returns:
        The recipe.
    """
    model, optimizer, lr = studied
    return replace(
        first_layer(studied),
        name=f"digits-{model}-{optimizer}-{lr:g}",
        setting=study_setting(model, ("digits", _EPOCHS), (optimizer, lr)),
        seeds=tuple(range(5)),
    )


PIXELS = ("0-1", "0-255", "cifar10")
# Figure 8 has a transformer, without a norm behind its first layer.
DAMPED = (("small-cnn", "sgd", 0.1), ("small-vit", "adamw", 0.001))
_LAMS = (0.01, 0.1, 1.0)


def damping(trained: tuple[str, str, float], pixels: str) -> Recipe:
    """Small networks on inputs of three scales, with λ as it is, relative, and joint.

    Source: none; Figure 8's question, asked of the relative λ.
    Hardware: made for a CPU.
    Numbers: none in the paper.

    Args:
        trained: as for `first_layer`.
        pixels: ``0-1`` or ``0-255``, the range of the inputs; or ``cifar10``,
            standardised.

    Returns:
        The recipe.
    """
    parent = first_layer(trained)
    of = "" if trained == DAMPED[0] else f"-{parent.setting.model}"
    methods = ("tract", "tract-relative", "tract-scaled")
    arms = [Arm(method, lam) for method in methods for lam in _LAMS]
    return replace(
        parent,
        name=f"damping{of}-{pixels}",
        artefact="Damping",
        setting=replace(parent.setting, normalise=pixels),
        arms=(Arm("vanilla"), *arms, Arm("tract-joint", LAM)),
        claim="Inputs in [0, 255] break vanilla training down, but not TrAct, whatever "
        "its λ (Figure 8, for a transformer).",
    )
