"""The first layer has an optimizer of its own, with TrAct (Fig. 9) or without.

``+sgd``: SGD. The paper does not say which learning rate, momentum and λ its SGD had.
Here they are the setting's: `first_layer_lr` (`lr` if that is None), `momentum` and
`weight_decay`. ``+row-adam``, ``+muon``, ``+soap``: kinds of
`trainact.lab.optimizers.KINDS`, with the setting's `lr` and `weight_decay`.
All other layers are trained by the setting's optimizer.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

import trainact
from trainact.api import parameters_of
from trainact.lab.config import Setting
from trainact.lab.methods.base import MethodSettings
from trainact.lab.methods.first_layer import find_first_layer
from trainact.lab.methods.tract import TRACT
from trainact.lab.methods.vanilla import VANILLA
from trainact.lab.optimizers import ChainedOptimizer, optimizer_over


def _mark(model: nn.Module, settings: MethodSettings) -> nn.Module:
    """Leave the model as it is; its optimizer finds the first layer by the mark."""
    _, layer = find_first_layer(model, settings)
    marked: Any = layer
    marked.is_trained_apart = True
    return model


def _chain(model: nn.Module, setting: Setting, first: Setting) -> torch.optim.Optimizer:
    marked = [m for m in model.modules() if getattr(m, "is_trained_apart", False)]
    layers = trainact.tract_layers(model).values() or marked
    of_first, of_rest = parameters_of(model, layers)
    optimizer = optimizer_over(of_first, first, model)
    if not of_rest:
        return optimizer
    return ChainedOptimizer([optimizer, optimizer_over(of_rest, setting, model)])


def _sgd(model: nn.Module, setting: Setting) -> torch.optim.Optimizer:
    lr = setting.lr if setting.first_layer_lr is None else setting.first_layer_lr
    return _chain(model, setting, replace(setting, optimizer="sgd", lr=lr))


def _of_kind(model: nn.Module, setting: Setting, *, kind: str) -> torch.optim.Optimizer:
    return _chain(model, setting, replace(setting, optimizer=kind))


TRACT_SGD = replace(
    TRACT,
    name="tract+sgd",
    optimizer=_sgd,
    summary="TrAct on the first layer, trained by SGD of its own",
)
TRACT_ROW_ADAM = replace(
    TRACT,
    name="tract+row-adam",
    optimizer=partial(_of_kind, kind="row-adam"),
    summary="TrAct on the first layer, trained by Adam with one scale for each output",
)
VANILLA_SGD = replace(
    VANILLA,
    name="vanilla+sgd",
    convert=_mark,
    optimizer=_sgd,
    summary="the model as it is, its first layer trained by SGD of its own",
)
VANILLA_ROW_ADAM = replace(
    VANILLA_SGD,
    name="vanilla+row-adam",
    optimizer=partial(_of_kind, kind="row-adam"),
    summary="the model as it is, its first layer by Adam with one scale an output",
)
VANILLA_MUON = replace(
    VANILLA_SGD,
    name="vanilla+muon",
    optimizer=partial(_of_kind, kind="muon"),
    summary="the model as it is, its first layer trained by Muon",
)
VANILLA_SOAP = replace(
    VANILLA_SGD,
    name="vanilla+soap",
    optimizer=partial(_of_kind, kind="soap"),
    summary="the model as it is, its first layer trained by SOAP",
)
