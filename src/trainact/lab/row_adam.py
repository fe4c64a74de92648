"""Adam that does not undo TrAct: one second moment for each output of a layer.

Adam divides every entry of a gradient by that entry's own root mean square. TrAct's
gradient is larger where pixels vary little; divided entry by entry most of that is
gone. Divided by one number for each output the gradient keeps its direction, and what
that output's pre-activations move by is TrAct's step, scaled: a step of z under a
diagonal metric.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class RowAdam(torch.optim.Optimizer):
    r"""Adam with one second moment for each row of a weight.

    With the gradient G of a weight whose first dimension counts outputs o, and j all
    its other entries:

    .. math::
        M &\leftarrow \beta_1 M + (1 - \beta_1) G \\
        v_o &\leftarrow \beta_2 v_o + (1 - \beta_2) \operatorname{mean}_j G_{oj}^2 \\
        W_{oj} &\leftarrow W_{oj} - \eta \, \frac{M_{oj} / (1 - \beta_1^t)}
            {\sqrt{v_o / (1 - \beta_2^t)} + \epsilon}

    A step has Adam's size, so that Adam's learning rate fits. For a vector it is Adam.

    Cost: one multiple of the weight in memory, where Adam has two.

    Args:
        params: as all optimizers take them.
        lr: η.
        betas: β₁ and β₂.
        eps: ε.
        weight_decay: times W is added to G, as in `torch.optim.Adam`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient.

        Args:
            closure: computes loss and gradients anew.

        Returns:
            What the closure returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        (beta1, beta2), state = group["betas"], self.state[parameter]
        grad = parameter.grad + group["weight_decay"] * parameter
        others = tuple(range(1, grad.ndim))
        square = grad.square()
        square = square.mean(others, keepdim=True) if others else square
        if not state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = (
                torch.zeros_like(x) for x in (grad, square)
            )
        state["step"] += 1
        state["mean"].lerp_(grad, 1 - beta1)
        state["square"].lerp_(square, 1 - beta2)
        done = float(state["step"])
        scale = (state["square"] / (1 - beta2**done)).sqrt_().add_(group["eps"])
        parameter.sub_(state["mean"] / scale, alpha=group["lr"] / (1 - beta1**done))
