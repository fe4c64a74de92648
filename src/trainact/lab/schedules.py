"""Learning rates over the steps of a run, as factors on each group's own initial rate.

Every schedule is a closed form of the step's number, counted from 0, so that a resumed
run needs to know nothing else. Epochs are counted from 0 too.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from trainact.lab.config import Setting

Factor = Callable[[int], float]


def make_schedule(
    optimizer: torch.optim.Optimizer, setting: Setting, steps_per_epoch: int
) -> LRScheduler:
    """Build the schedule of a run.

    Args:
        optimizer: whose rates are set; each of its groups keeps its own initial one.
        setting: of the run.
        steps_per_epoch: optimizer steps.

    Returns:
        A scheduler to be stepped after every batch.
    """
    factor = SCHEDULES[setting.schedule](setting, steps_per_epoch)
    return LambdaLR(optimizer, factor)


def _constant(setting: Setting, steps_per_epoch: int) -> Factor:
    del setting, steps_per_epoch
    return lambda _: 1.0


def _cosine(setting: Setting, steps_per_epoch: int) -> Factor:
    """Falls with every step, and would reach its end after the last one."""
    num_steps = setting.epochs * steps_per_epoch
    return lambda step: _half_cosine(step / num_steps, setting)


def _cosine_epochs(setting: Setting, steps_per_epoch: int) -> Factor:
    """Falls with every epoch, as in ViT-CIFAR, on which the paper bases its ViT."""
    warmup = setting.warmup_epochs

    def factor(step: int) -> float:
        epoch = step // steps_per_epoch
        if epoch < warmup:  # the whole first epoch has rate 0
            return epoch / warmup
        # As long as the whole run but begun after the warm-up, whose end lasts for two
        # epochs: the run is over before the cosine is.
        return _half_cosine(max(epoch - warmup - 1, 0) / setting.epochs, setting)

    return factor


def _cosine_deit(setting: Setting, steps_per_epoch: int) -> Factor:
    """Rises, then falls with every epoch, as in DeiT, whose scheduler is timm's."""
    start, warmup = setting.warmup_lr / setting.lr, setting.warmup_epochs

    def factor(step: int) -> float:
        # The scheduler is told which epoch is over: the first rate lasts for two.
        epoch = max(step // steps_per_epoch - 1, 0)
        if epoch < warmup:
            return start + (1 - start) * epoch / warmup
        # As if there had been no warm-up: it begins a little below the whole rate.
        return _half_cosine(epoch / setting.epochs, setting)

    return factor


def _half_cosine(share: float, setting: Setting) -> float:
    """From 1 at share 0 to `min_lr`, as a part of `lr`, at share 1."""
    end = setting.min_lr / setting.lr
    return end + (1 - end) * (1 + math.cos(math.pi * share)) / 2


def _steps(setting: Setting, steps_per_epoch: int) -> Factor:
    """Falls at milestones, as in pytorch-cifar100, the code of the paper's tables."""
    warmup = setting.warmup_epochs

    def factor(step: int) -> float:
        epoch = step // steps_per_epoch
        if epoch < warmup:  # rises with every step; the first one has rate 0
            return step / (warmup * steps_per_epoch)
        return setting.gamma ** sum(epoch >= mark for mark in setting.milestones)

    return factor


SCHEDULES: dict[str, Callable[[Setting, int], Factor]] = {
    "constant": _constant,
    "cosine": _cosine,
    "cosine-epochs": _cosine_epochs,
    "cosine-deit": _cosine_deit,
    "steps": _steps,
}
