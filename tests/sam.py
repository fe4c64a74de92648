"""An optimizer that takes its step elsewhere than where it is."""

from __future__ import annotations

from typing import Any

import torch


class Sam(torch.optim.Optimizer):
    """Sharpness-aware minimisation: a step uphill, then another optimizer's step."""

    def __init__(self, base: torch.optim.Optimizer) -> None:
        super().__init__(base.param_groups, {})
        self.base = base
        self.param_groups = base.param_groups

    @torch.no_grad()
    def climb(self) -> None:
        parameters = [p for group in self.param_groups for p in group["params"]]
        norm = torch.stack([p.grad.norm() for p in parameters]).norm()
        for parameter in parameters:
            uphill = 0.05 * parameter.grad / (norm + 1e-12)
            self.state[parameter]["uphill"] = uphill
            parameter.add_(uphill)
        self.zero_grad()

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for parameter, state in self.state.items():
            parameter.sub_(state["uphill"])
        return self.base.step(closure)
