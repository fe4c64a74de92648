"""Try every model and method on a few images before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from trainact.lab.config import RunConfig
from trainact.lab.data import AnyData
from trainact.lab.data.normalise import Normalise
from trainact.lab.errors import LabError
from trainact.lab.methods import find_method
from trainact.lab.methods.tract import DEFAULT_LAM
from trainact.lab.prepare import prepare_model
from trainact.lab.subject import refusal

_MAX_IMAGES = 8


def probe(grid: Iterable[RunConfig], data: AnyData) -> None:
    """Run one small training step for every model and method of a grid.

    The batch has as many images as the smallest batch of an epoch, up to 8, since
    one image alone is too few for some models.

    Args:
        grid: the runs to come.
        data: their data.
    """
    # Compiled it would do the same, a minute later, and with any λ.
    probed = (
        replace(
            config,
            seed=0,
            compile=False,
            lam=None if config.lam is None else DEFAULT_LAM,
        )
        for config in grid
        if config.task == "classification"
    )
    for config in dict.fromkeys(probed):
        _probe_one(config, data)


def _probe_one(config: RunConfig, data: AnyData) -> None:
    num_images = _smallest_batch(data.num_train, config.batch_size)
    images = Normalise(*data.statistics)(data.sample(num_images))
    labels = torch.arange(num_images) % data.num_classes
    try:
        model, _ = prepare_model(config, data)
        logits = model.train()(images)
        _check_logits(logits, (num_images, data.num_classes))
        cross_entropy(logits, labels).backward()
        find_method(config.method).optimizer(model, config)
    except LabError:
        raise
    except (Exception, SystemExit) as error:
        raise LabError(_diagnose(config, data, num_images, refusal(error))) from error


def _smallest_batch(num_images: int, batch_size: int) -> int:
    return min(num_images % batch_size or batch_size, _MAX_IMAGES)


def _check_logits(logits: object, expected: tuple[int, int]) -> None:
    if not isinstance(logits, Tensor) or logits.shape != torch.Size(expected):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits)
        raise ValueError(f"it returns {found} where logits {expected} are needed")


def _diagnose(config: RunConfig, data: AnyData, num_images: int, what: str) -> str:
    channels, height, width = data.image_shape
    if num_images == 1:
        remedy = "the last batch has one image: change --batch-size"
    else:
        remedy = "use a model for such images, or larger ones"
    return (
        f"{config.model} with {config.arm} does not train on images of {channels} x "
        f"{height} x {width} ({what}): {remedy}"
    )
