"""The optimizer that a setting describes, and several optimizers as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from itertools import islice
from typing import Any

import torch
from torch import nn

from trainact.lab.config import Setting
from trainact.lab.errors import LabError
from trainact.lab.row_adam import RowAdam

# A group of parameters as torch's optimizers take it.
Group = dict[str, Any]


def make_optimizer(model: nn.Module, setting: Setting) -> torch.optim.Optimizer:
    """Build the optimizer of a run over all parameters of the model.

    Args:
        model: to be trained.
        setting: of the run.

    Returns:
        The optimizer.
    """
    return optimizer_over(model.parameters(), setting, model)


def optimizer_over(
    parameters: Iterable[nn.Parameter],
    setting: Setting,
    model: nn.Module | None = None,
) -> torch.optim.Optimizer:
    """Build the optimizer of a setting over some parameters.

    Args:
        parameters: to be trained.
        setting: of the run.
        model: that they are part of, to tell which of them decay; without it all do.

    Returns:
        SGD or one of `KINDS`; what the setting does not say has its
        defaults; see `lamb`, `muon` and `soap`.
    """
    groups = _groups(list(parameters), setting, model)
    if setting.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=setting.lr, momentum=setting.momentum)
    return KINDS[setting.optimizer](groups, lr=setting.lr)


def _groups(
    parameters: list[nn.Parameter], setting: Setting, model: nn.Module | None
) -> list[Group]:
    lr, decay = setting.lr, setting.weight_decay
    if model is None or setting.decay == "all":
        return [{"params": parameters, "weight_decay": decay}]
    chosen = {id(parameter) for parameter in parameters}
    groups = DECAYS[setting.decay](model, lr, decay)
    for group in groups:
        group["params"] = [p for p in group["params"] if id(p) in chosen]
    return [group for group in groups if group["params"]]


def lamb(groups: Iterable[Group], lr: float) -> torch.optim.Optimizer:
    """Build timm's LAMB with what DeiT's code gives to apex's `FusedLAMB`.

    The gradient of all groups together is first clipped to norm 1; it is the gradient
    as the backward pass leaves it, TrAct's where the first layer has it. The decay is
    part of the update, to whose norm that of a weight is compared; parameters without
    decay take Adam's step. In all of this timm's does what apex's does. They differ in
    rounding: apex has one kernel of its own for a step.

    Args:
        groups: with parameters and their decay.
        lr: learning rate.

    Returns:
        The optimizer, with ε = 1e-8 and β = (0.9, 0.999).
    """
    from timm.optim.lamb import Lamb

    return Lamb(groups, lr=lr, eps=1e-8, max_grad_norm=1.0)


def muon(groups: Iterable[Group], lr: float) -> torch.optim.Optimizer:
    """Build timm's Muon: momentum made orthogonal, with steps of Adam's size.

    Kernels of convolutions count as matrices, one row for each output; vectors are
    trained by AdamW.

    Args:
        groups: with parameters and their decay.
        lr: learning rate.

    Returns:
        The optimizer.

    Raises:
        LabError: if timm has none.
    """
    from timm import optim

    make: Any = getattr(optim, "Muon", None)
    if make is None:
        msg = "this timm has no Muon: install timm 1.0.21 or newer"
        raise LabError(msg)
    return make(groups, lr=lr)


def soap(groups: Iterable[Group], lr: float) -> torch.optim.Optimizer:
    """Build pytorch-optimizer's SOAP: Adam in the eigenbases of Shampoo's factors.

    With betas (0.95, 0.95) and bases that are renewed at every tenth step, as in the
    paper (Vyas et al., 2024).

    Args:
        groups: with parameters and their decay.
        lr: learning rate.

    Returns:
        The optimizer.

    Raises:
        LabError: if pytorch-optimizer is not installed.
    """
    try:
        module = import_module("pytorch_optimizer")
    except ModuleNotFoundError as error:
        msg = "SOAP is pytorch-optimizer's, which is not installed: add that package"
        raise LabError(msg) from error
    return module.SOAP(groups, lr=lr)


KINDS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "lamb": lamb,
    "row-adam": RowAdam,
    "muon": muon,
    "soap": soap,
}


def _all_alike(model: nn.Module, lr: float, decay: float) -> list[Group]:
    del lr  # the optimizer's
    return [{"params": list(model.parameters()), "weight_decay": decay}]


def _matrices(model: nn.Module, lr: float, decay: float) -> list[Group]:
    """No decay of biases, other vectors and what the model itself exempts."""
    from timm import optim

    del lr  # the optimizer's
    timm_optim: Any = optim  # which re-exports without saying so
    exempt: Callable[[], Iterable[str]] = getattr(model, "no_weight_decay", tuple)
    return timm_optim.param_groups_weight_decay(
        model, decay, no_weight_decay_list=tuple(exempt())
    )


def caffe_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], lr: float, decay: float
) -> list[Group]:
    """Give biases twice the learning rate and no decay, as Caffe's detectors do.

    Args:
        named_parameters: of a model; those that are frozen are left out.
        lr: learning rate of the weights.
        decay: of the weights.

    Returns:
        Up to two groups, weights and biases.
    """
    weights, biases = list[nn.Parameter](), list[nn.Parameter]()
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            is_bias = name.rpartition(".")[2] == "bias"
            (biases if is_bias else weights).append(parameter)
    groups: list[Group] = [
        {"params": weights, "lr": lr, "weight_decay": decay},
        {"params": biases, "lr": 2 * lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _caffe(model: nn.Module, lr: float, decay: float) -> list[Group]:
    return caffe_groups(model.named_parameters(), lr, decay)


DECAYS: dict[str, Callable[[nn.Module, float, float], list[Group]]] = {
    "all": _all_alike,
    "matrices": _matrices,
    "caffe": _caffe,
}


class ChainedOptimizer(torch.optim.Optimizer):
    """Several optimizers, each with parameters of its own, behind the face of one.

    Groups and state are one list and one dictionary of the parts' own objects: for
    schedulers, clips, GradScaler, Lightning and state dicts this is one optimizer whose
    groups differ. Step, save and load it, not its parts.

    Args:
        optimizers: at least one.

    Raises:
        ValueError: if a parameter is in more than one of them.

    Examples:
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
