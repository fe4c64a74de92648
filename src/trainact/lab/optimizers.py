"""The optimizer that a setting describes, and several optimizers as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import torch
from torch import nn

from trainact.lab.config import Setting


def make_optimizer(model: nn.Module, setting: Setting) -> torch.optim.Optimizer:
    """Build the optimizer of a run over all parameters of the model.

    Args:
        model: to be trained.
        setting: of the run.

    Returns:
        The optimizer.
    """
    return optimizer_over(model.parameters(), setting)


def optimizer_over(
    parameters: Iterable[nn.Parameter], setting: Setting
) -> torch.optim.Optimizer:
    """Build the optimizer of a setting over some parameters.

    Args:
        parameters: to be trained.
        setting: of the run.

    Returns:
        SGD, Adam or AdamW; what the setting does not say has torch's defaults.
    """
    parameters = list(parameters)
    lr, decay = setting.lr, setting.weight_decay
    if setting.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=lr, momentum=setting.momentum, weight_decay=decay
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[setting.optimizer]
    return kind(parameters, lr=lr, weight_decay=decay)


class ChainedOptimizer(torch.optim.Optimizer):
    """Several optimizers, each with parameters of its own, behind the face of one.

    Groups and state are one list and one dictionary of the parts' own objects: for
    schedulers, clips, GradScaler, Lightning and state dicts this is one optimizer whose
    groups differ. Step, save and load it, not its parts.

    Args:
        optimizers: at least one.

    Raises:
        ValueError: if a parameter is in more than one of them.

    Example:
        >>> import torch
        >>> first, rest = torch.nn.Linear(2, 3), torch.nn.Linear(3, 1)
        >>> chained = ChainedOptimizer(
        ...     [torch.optim.SGD(first.parameters(), lr=0.1),
        ...      torch.optim.Adam(rest.parameters(), lr=0.001)]
        ... )
        >>> [group["lr"] for group in chained.param_groups]
        [0.1, 0.001]
    """

    def __init__(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        parts = tuple(optimizers)
        super().__init__([group for part in parts for group in part.param_groups], {})
        for part in parts:
            self.state.update(part.state)
        self.optimizers = parts
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step every optimizer.

        Args:
            closure: computes loss and gradients; called once, before the steps.

        Returns:
            What the closure returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse a group, unless from the constructor: no optimizer would step it.

        Args:
            param_group: not used.

        Raises:
            RuntimeError: always.
        """
        if "optimizers" in vars(self):
            msg = (
                "a ChainedOptimizer takes no further group, since it cannot tell which "
                "of its optimizers should step it: chain the optimizers anew"
            )
            raise RuntimeError(msg)
        super().add_param_group(param_group)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "optimizers": self.optimizers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Also called by load_state_dict, with new groups and a new state.
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        """Give every part its share of the groups, and the state of all."""
        groups = iter(self.param_groups)
        for part in self.optimizers:
            part.param_groups = list(islice(groups, len(part.param_groups)))
            part.state = self.state
