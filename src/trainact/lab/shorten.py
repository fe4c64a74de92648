"""Settings of another length, and those that only show that a recipe works."""

from __future__ import annotations

from dataclasses import replace

from trainact.lab.config import Setting
from trainact.lab.data import is_in_memory
from trainact.lab.data.smoke import NUM_IMAGES, SMOKE, SMOKE_BOXES, smoke_data

SMOKE_EPOCHS = 2
SMOKE_STEPS = 2
SMOKE_BATCH = NUM_IMAGES // SMOKE_STEPS
SMOKE_BOXES_SIZE = 96  # shorter side of an image with boxes


def stretch(setting: Setting, epochs: int) -> Setting:
    """Change the length; warm-up and milestones keep their shares of it.

    Args:
        setting: of a recipe.
        epochs: the new length.

    Returns:
        The setting of that length.
    """
    share = epochs / setting.epochs
    return replace(
        setting,
        epochs=epochs,
        warmup_epochs=round(setting.warmup_epochs * share),
        milestones=tuple(round(epoch * share) for epoch in setting.milestones),
    )


def smoke(setting: Setting) -> Setting:
    """Shorten a setting to a few steps on made-up images.

    Args:
        setting: of a recipe.

    Returns:
        The setting of its smoke.
    """
    short = replace(stretch(setting, SMOKE_EPOCHS), pretrained=None)
    if setting.task == "detection":
        return replace(short, data=SMOKE_BOXES, image_size=SMOKE_BOXES_SIZE)
    data = smoke_data(setting.data, is_in_memory=is_in_memory(setting))
    return replace(short, data=data, batch_size=SMOKE_BATCH)


def is_smoke(setting: Setting) -> bool:
    """Whether a run of this setting only showed that its recipe works.

    Args:
        setting: of a run on images; those of a smoke may be the user's own.

    Returns:
        True for what `smoke` makes.
    """
    is_short = (setting.epochs, setting.batch_size) == (SMOKE_EPOCHS, SMOKE_BATCH)
    return is_short or setting.data.startswith(SMOKE)
