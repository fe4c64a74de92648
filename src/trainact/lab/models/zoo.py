"""Any classification model of torchvision or timm by name, with random weights.

timm models are built for the data's channels (and, where a model's input size is fixed,
for its size). torchvision models take three channels; its vision transformers are built
for the data's size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from trainact.lab.errors import LabError, first_line

# Without these the model returns extra logits while training.
_TORCHVISION_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def torchvision_names() -> list[str]:
    """List torchvision's classification models.

    Returns:
        Their names.
    """
    from torchvision import models

    return models.list_models(module=models)


def timm_names() -> list[str]:
    """List timm's models.

    Returns:
        Their names, without pretrained tags.
    """
    import timm

    return timm.list_models()


def build_torchvision(
    name: str, image_shape: tuple[int, int, int], num_classes: int
) -> nn.Module:
    """Build a torchvision model with random weights.

    Args:
        name: as in `torchvision.models`.
        image_shape: channels, height and width.
        num_classes: number of outputs.

    Returns:
        The model.

    Raises:
        LabError: if the images do not have three channels.
    """
    from torchvision import models

    channels, height, width = image_shape
    if channels != 3:
        raise LabError(
            f"torchvision's {name} takes images with 3 channels and these have "
            f"{channels}: use a timm model, small-cnn, mlp or small-vit"
        )
    options = dict(_TORCHVISION_OPTIONS.get(name, {}))
    if name.startswith("vit_"):
        options["image_size"] = _square(name, height, width)
    return _build(
        name, lambda: models.get_model(name, num_classes=num_classes, **options)
    )


def build_timm(
    name: str, image_shape: tuple[int, int, int], num_classes: int
) -> nn.Module:
    """Build a timm model with random weights.

    Args:
        name: as in `timm.list_models()`.
        image_shape: channels, height and width.
        num_classes: number of outputs.

    Returns:
        The model.
    """
    import timm

    channels, height, width = image_shape
    options: dict[str, Any] = {"in_chans": channels, "num_classes": num_classes}
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        options["img_size"] = (height, width)
    return _build(name, lambda: timm.create_model(name, **options))


def _square(name: str, height: int, width: int) -> int:
    if height != width:
        raise LabError(
            f"torchvision's {name} takes square images and these are "
            f"{height}x{width}: give --image-size"
        )
    return height


def _build(name: str, build: Callable[[], nn.Module]) -> nn.Module:
    try:
        return build()
    except (ValueError, TypeError, RuntimeError, AssertionError) as error:
        raise LabError(
            f"cannot build {name} for this data ({first_line(error)}): give another "
            "model or --image-size"
        ) from error
