"""TrAct on the first layer, which SGD trains; all others by their optimizer (Fig. 9).

The paper does not say which learning rate, momentum and λ its SGD had. Here they are
the setting's: `first_layer_lr` (`lr` if that is None), `momentum` and `weight_decay`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

import trainact
from trainact.lab.config import Setting
from trainact.lab.methods.base import Method
from trainact.lab.methods.tract import convert
from trainact.lab.optimizers import ChainedOptimizer, optimizer_over


def _optimizer(model: nn.Module, setting: Setting) -> torch.optim.Optimizer:
    lr = setting.lr if setting.first_layer_lr is None else setting.first_layer_lr
    first, rest = trainact.split_parameters(model)
    sgd = optimizer_over(first, replace(setting, optimizer="sgd", lr=lr), model)
    if not rest:
        return sgd
    return ChainedOptimizer([sgd, optimizer_over(rest, setting, model)])


TRACT_SGD = Method(
    name="tract+sgd",
    uses_lam=True,
    convert=convert,
    optimizer=_optimizer,
    summary="TrAct on the first layer, trained by SGD of its own",
)
