"""Figures 5, 11 and 12 and Table 2: ResNets on ImageNet."""

from __future__ import annotations

from dataclasses import replace

from trainact.lab.config import Setting
from trainact.lab.recipe import Arm, Expected, Recipe
from trainact.lab.recipes.common import DRAWN, PAIRED, arms

LENGTHS: tuple[int, ...] = (30, 60, 90)
# What the paper found best for vanilla training of all three networks, by epochs.
LEARNING_RATES = {30: 0.141, 60: 0.1, 90: 0.1}

# Table 2: top-1 and top-5 of vanilla training and of TrAct with λ = 0.1, by epochs.
TABLE_2 = {
    30: (Expected(71.96, top5=90.70), Expected(73.48, top5=91.61)),
    60: (Expected(74.98, top5=92.36), Expected(75.68, top5=92.78)),
    90: (Expected(75.70, top5=92.74), Expected(76.20, top5=93.12)),
}


def fig5(epochs: int) -> Recipe:
    """ResNet-50 on ImageNet: the paper's Figure 5 and Table 2.

    Source: Section 4.3 of the paper; PyTorch's ImageNet example, whose settings are the
    paper's as far as it states them, for everything else.
    Hardware: one RTX 4090 in the paper, which gives no times.
    Numbers: those of Table 2 stand with vanilla training and λ = 0.1; the plots' axes
    run from 66 to 78 % (top-1) and from 82 to 94 % (top-5).

    Args:
        epochs: 30, 60 or 90.

    Returns:
        The recipe.
    """
    vanilla, tract = TABLE_2[epochs]
    return Recipe(
        name=f"fig5-{epochs}",
        artefact="Figure 5, Table 2",
        setting=Setting(
            data="imagenet",
            model="torchvision:resnet50",
            epochs=epochs,
            batch_size=256,
            image_size=224,
            augment="imagenet",
            normalise="imagenet",
            eval_crop=0.875,
            optimizer="sgd",
            lr=LEARNING_RATES[epochs],
            weight_decay=1e-4,
            schedule="steps",
            milestones=(epochs // 3, 2 * epochs // 3),
            gamma=0.1,
        ),
        arms=(
            Arm("vanilla", expected=vanilla),
            Arm("tract", 0.05),
            Arm("tract", 0.1, expected=tract),
            Arm("tract", 0.2),
        ),
        seeds=(0,),
        claim="TrAct with λ = 0.1 is more accurate at every length; after 60 epochs it "
        "is about where vanilla training is after 90.",
        unverified=(
            "Seeds: one, 0; the paper names none and prints no standard deviations.",
            "The optimizer: SGD, as the text says; the legends of the plots say Adam.",
            "Augmentation: that of PyTorch's ImageNet example, a random crop of 8 to "
            "100 % of an image, brought to 224 pixels, and a flip; of a test image, "
            "brought to 256 pixels, the middle 224.",
            "What decays: all parameters, also biases and batch norms, as in that "
            "example.",
            "The last, smaller batch of an epoch: trained on, as in that example.",
            "Precision: float32, as in that example.",
        ),
        deviations=(DRAWN, PAIRED),
    )


def fig11(epochs: int) -> Recipe:
    """Figure 5 with ResNet-18: Figure 11.

    Source: Section 4.3 of the paper.
    Hardware: one RTX 4090 in the paper, which gives no times.
    Numbers: none are printed; the plots' axes run from 60 to 72 % (top-1) and from 82
    to 94 % (top-5).

    Args:
        epochs: 30, 60 or 90.

    Returns:
        The recipe.
    """
    return _smaller("fig11", "Figure 11", "resnet18", epochs)


def fig12(epochs: int) -> Recipe:
    """Figure 5 with ResNet-34: Figure 12.

    Source: Section 4.3 of the paper.
    Hardware: one RTX 4090 in the paper, which gives no times.
    Numbers: none are printed; the plots' axes run from 64 to 74 % (top-1) and from 82
    to 94 % (top-5).

    Args:
        epochs: 30, 60 or 90.

    Returns:
        The recipe.
    """
    return _smaller("fig12", "Figure 12", "resnet34", epochs)


def _smaller(family: str, artefact: str, model: str, epochs: int) -> Recipe:
    parent = fig5(epochs)
    return replace(
        parent,
        name=f"{family}-{epochs}",
        artefact=artefact,
        setting=replace(parent.setting, model=f"torchvision:{model}"),
        arms=arms(),
        claim="Nothing that is put into words; the figure shows the accuracies.",
    )
