"""TrAct with what the paper leaves open, an option each; see ``docs/extensions.md``."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

import trainact
from trainact.find.by_structure import LAYERS
from trainact.lab.config import Setting
from trainact.lab.methods.base import Method, MethodSettings
from trainact.lab.methods.tract import TRACT, convert, lam_of
from trainact.lab.optimizers import make_optimizer

# λ at the end over λ at the beginning; their geometric mean is the given one.
_SPAN = 16.0
# Half of what is known is ten steps old.
_RUNNING = trainact.Estimate(decay=0.93)
_SAMPLED = trainact.Estimate(fraction=0.125)


def _convert_all(model: nn.Module, settings: MethodSettings) -> nn.Module:
    """Put TrAct on every layer that it knows."""
    names = [name for name, module in model.named_modules() if type(module) in LAYERS]
    return trainact.apply(model, lam=lam_of(settings), layer=names, sync=settings.sync)


def _with_schedule(
    model: nn.Module, setting: Setting, *, power: float
) -> torch.optim.Optimizer:
    # λ s^(p (1/2 - r)), with s the span, p the power, and r the learning rate over its
    # initial one, which a schedule takes from 1 to 0.
    optimizer = make_optimizer(model, setting)
    layers = trainact.tract_layers(model).values()
    given = {layer: layer.lam for layer in layers}

    def follow(*_: Any) -> None:
        group = optimizer.param_groups[0]
        done = group["lr"] / group.get("initial_lr", group["lr"])
        for layer, lam in given.items():
            layer.lam = lam * _SPAN ** (power * (0.5 - done))

    # Before the closure, in which the Trainer computes loss and gradients.
    optimizer.register_step_pre_hook(follow)
    return optimizer


TRACT_RELATIVE = replace(
    TRACT,
    name="tract-relative",
    convert=partial(convert, relative=True),
    summary="TrAct with λ in units of the mean square of the input's entries",
)
TRACT_RUNNING = replace(
    TRACT,
    name="tract-running",
    convert=partial(convert, estimate=_RUNNING),
    summary="TrAct with running statistics (half of them ten steps old)",
)
TRACT_SAMPLED = replace(
    TRACT,
    name="tract-sampled",
    convert=partial(convert, estimate=_SAMPLED),
    summary="TrAct with statistics of an eighth of the images",
)
TRACT_RISING = replace(
    TRACT,
    name="tract-rising",
    optimizer=partial(_with_schedule, power=1.0),
    summary="TrAct with λ that rises from a quarter to four times the given one",
)
TRACT_FALLING = replace(
    TRACT,
    name="tract-falling",
    optimizer=partial(_with_schedule, power=-1.0),
    summary="TrAct with λ that falls from four times to a quarter of the given one",
)
TRACT_ALL = replace(
    TRACT,
    name="tract-all",
    convert=_convert_all,
    summary="TrAct on every linear and convolution layer",
)
EXTENSIONS: tuple[Method, ...] = (
    TRACT_RELATIVE,
    TRACT_RUNNING,
    TRACT_SAMPLED,
    TRACT_RISING,
    TRACT_FALLING,
    TRACT_ALL,
)
