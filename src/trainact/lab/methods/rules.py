"""First layers whose gradients are changed by a rule that may see everything.

`trainact` itself needs no more than the input of a layer and the gradient of its
weight. A rule here also sees the gradient of each pre-activation and that of the bias,
at the cost of the unfolded batch: enough to compare rules, too much to train with.

Legend: G groups, N rows of the unfolded batch, P entries of a row, O outputs of a
group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainact.diagnostics import gradient_rows
from trainact.geometry import Geometry, layer_geometry
from trainact.gram.patches import extract_patches
from trainact.lab.methods.base import MethodSettings
from trainact.lab.methods.first_layer import change_class
from trainact.lab.methods.tract import lam_of
from trainact.precision import full_precision


class Seen(NamedTuple):
    """What one call of a layer leaves for its rule, in float64.

    Attributes:
        rows: X, ``[G, N, P]``.
        grad_z: gradient of the loss with respect to z, row by row, ``[G, N, O]``.
        weight: G, the gradient of the weight, ``[G, O, P]``.
        bias: that of the bias, ``[G, O]``; zeros where there is none.
    """

    rows: Tensor
    grad_z: Tensor
    weight: Tensor
    bias: Tensor

    def moment(self) -> Tensor:
        """Second moment of the rows.

        Returns:
            A = XᵀX / b, ``[G, P, P]``.
        """
        return self.rows.mT @ self.rows / self.rows.shape[1]


# What has been seen, and λ -> the new gradients of weight and bias.
Rule = Callable[[Seen, float], tuple[Tensor, Tensor]]


@dataclass
class _Call:
    """One call of a layer, from its forward to its backward."""

    rule: Rule
    lam: float
    x: Tensor
    geometry: Geometry
    grad_z: Any = None  # the output's gradient comes before the weight's

    def note(self, grad_z: Tensor) -> None:
        self.grad_z = grad_z

    def change(
        self, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Apply the rule to the gradients of weight and bias."""
        with full_precision(weight):
            rows_GNP = extract_patches(self.x, self.geometry).double()
            grad_GNO = gradient_rows(self.grad_z, self.geometry).double()
            groups, _, entries = rows_GNP.shape
            flat = weight.new_zeros(len(weight)) if bias is None else bias
            seen = Seen(
                rows_GNP,
                grad_GNO,
                weight.reshape(groups, -1, entries).double(),
                flat.reshape(groups, -1).double(),
            )
            new_GOP, new_GO = self.rule(seen, self.lam)
        new = new_GOP.reshape(weight.shape).to(weight.dtype)
        if bias is None:
            return new, None
        return new, new_GO.reshape(bias.shape).to(bias.dtype)


class _Ruled(torch.autograd.Function):
    """Identity on weight and bias, whose backward applies the rule."""

    @staticmethod
    def forward(
        ctx: Any, call: _Call, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        ctx.call = call
        return weight.view_as(weight), None if bias is None else bias.view_as(bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        return None, *ctx.call.change(*grad_outputs)


class RuledLayer(nn.Module):
    """What layers with a rule share."""

    rule: Rule
    lam: float

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            input: as the plain layer takes it.

        Returns:
            What the plain layer computes.
        """
        layer: Any = self
        weight, bias = layer.weight, layer.bias
        is_trained = torch.is_grad_enabled() and weight.requires_grad
        if not (self.training and is_trained and input.numel()):
            return self._linear_map(input, weight, bias)
        call = _Call(self.rule, self.lam, input.detach(), layer_geometry(self))
        marked: Any = _Ruled.apply(call, weight, bias)
        z = self._linear_map(input, *marked)
        z.register_hook(call.note)
        return z

    def _linear_map(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        layer: Any = self
        return layer._conv_forward(x, weight, bias)


class RuledLinear(RuledLayer, nn.Linear):
    """`torch.nn.Linear` with a rule."""

    def _linear_map(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)


class RuledConv1d(RuledLayer, nn.Conv1d):
    """`torch.nn.Conv1d` with a rule."""


class RuledConv2d(RuledLayer, nn.Conv2d):
    """`torch.nn.Conv2d` with a rule."""


class RuledConv3d(RuledLayer, nn.Conv3d):
    """`torch.nn.Conv3d` with a rule."""


CLASSES: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: RuledLinear,
    nn.Conv1d: RuledConv1d,
    nn.Conv2d: RuledConv2d,
    nn.Conv3d: RuledConv3d,
}


def put_rule(layer: nn.Module, settings: MethodSettings, rule: Rule) -> None:
    """Give a layer a rule, in place.

    Args:
        layer: a plain one.
        settings: with λ.
        rule: a function at the top of a module, so that models can be pickled.

    Raises:
        ValueError: if several processes train together: a rule sees its own alone.
    """
    refuse_ranks(settings)
    changed: Any = layer
    change_class(layer, CLASSES)
    changed.rule = rule
    changed.lam = lam_of(settings)


def refuse_ranks(settings: MethodSettings) -> None:
    """Refuse several processes, for a method whose statistics are each its own.

    Args:
        settings: that say whether there are.

    Raises:
        ValueError: if so.
    """
    if settings.sync:
        msg = "this method has no statistics over several processes: train with one"
        raise ValueError(msg)


def add_to_diagonal(matrix: Tensor, shift_G: Tensor | float) -> Tensor:
    """Damp a matrix.

    Args:
        matrix: ``[G, P, P]``.
        shift_G: what is added, one for each group or one for all.

    Returns:
        A new matrix.
    """
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    shift = torch.as_tensor(shift_G, dtype=matrix.dtype, device=matrix.device)
    return matrix + shift.reshape(-1, 1, 1) * eye


def damp_relative(matrix: Tensor, lam: float) -> Tensor:
    """Add λ times the mean eigenvalue to all eigenvalues.

    Args:
        matrix: ``[G, N, N]``, a second moment.
        lam: λ.

    Returns:
        The sum; of a matrix of zeros the identity, since what it is to be solved for is
        zero, too.
    """
    mean_G = matrix.diagonal(dim1=-2, dim2=-1).mean(-1)
    return add_to_diagonal(matrix, torch.where(mean_G > 0, lam * mean_G, 1.0))


def solve_right(grad_GOP: Tensor, damped_GPP: Tensor) -> Tensor:
    """Multiply by an inverse from the right.

    Args:
        grad_GOP: rows.
        damped_GPP: symmetric.

    Returns:
        grad times the inverse of damped.
    """
    return torch.linalg.solve(damped_GPP, grad_GOP, left=False)
