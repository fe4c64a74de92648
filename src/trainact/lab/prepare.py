"""The model of a run: built, changed by its method, with the weights it begins with."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from trainact.lab.config import RunConfig
from trainact.lab.data import AnyData
from trainact.lab.data.normalise import Normalise, find_statistics
from trainact.lab.errors import LabError, first_line
from trainact.lab.methods import MethodSettings, find_method
from trainact.lab.models import build_model
from trainact.lab.models.weights import load_weights
from trainact.lab.ranks import this_process
from trainact.lab.weights import read_weights


def prepare_model(
    config: RunConfig, data: AnyData, weights: Path | None = None
) -> tuple[nn.Module, tuple[str, ...]]:
    """Build the model of a run and apply its method.

    The weights depend on the seed and the model alone, and torch's generator is left
    in a state that depends on the seed alone: whatever a method draws, runs of one
    seed stay paired.

    Args:
        config: of the run.
        data: whose shape and classes the model is built for.
        weights: file to take the weights of, instead of random ones; what belongs to
            other classes or another image size is adapted.

    Returns:
        The model, and the names of the layers that the method changed.

    Raises:
        LabError: if the model does not fit the data or the method not the model.
    """
    torch.manual_seed(config.seed)
    model = _build(config, data)
    types = {name: type(module) for name, module in model.named_modules()}
    normalise = Normalise(*find_statistics(config.normalise, data))
    settings = MethodSettings(
        lam=config.lam,
        layer=config.layer,
        example_input=normalise(data.sample(1)),
        images=lambda count: normalise(data.sample(count)),
        sync=this_process().size > 1,
    )
    try:
        model = find_method(config.method).convert(model, settings)
    except ValueError as error:
        raise LabError(
            f"{config.arm} cannot be applied to {config.model}: {first_line(error)}"
            + _layer_hint(error)
        ) from error
    if weights is not None:
        load_weights(model, read_weights(weights))
    torch.manual_seed(config.seed)
    changed = tuple(
        name
        for name, module in model.named_modules()
        if type(module) is not types.get(name)
    )
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if config.compile:
        model.compile()
    return model, changed


def _build(config: RunConfig, data: AnyData) -> nn.Module:
    if config.task == "detection":
        from trainact.lab.detection.faster_rcnn import build_detector

        return build_detector(config, data.num_classes)
    return build_model(
        config.model, data.image_shape, data.num_classes, config.drop_path
    )


def _layer_hint(error: ValueError) -> str:
    return " (name it with --layer)" if "layer" in str(error) else ""
