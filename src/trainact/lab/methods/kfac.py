r"""K-FAC restricted to the first layer, with both of its factors.

The input's is TrAct's A; without the output's this is TrAct with a relative λ.

    G (A + a I)⁻¹, multiplied from the left by (B + c I)⁻¹,   B = b DᵀD

where the b rows of D are the gradients of the loss with respect to z, so that b D are
those of each row's own loss. K-FAC takes gradients of labels drawn from the model; here
they are those of the true labels (the empirical Fisher matrix), and both factors are of
the batch, not running means. Dampings are relative, a = λ tr A / n, c = λ tr B / m.
K-FAC's steps have a length of their own, for which its users have a learning rate of
its own and a bound on the step. Here the result is given the length of
G (A + a I)⁻¹, so that the same learning rates fit: what is compared is the direction.

References:
    Martens, Grosse: Optimizing Neural Networks with Kronecker-factored Approximate
    Curvature, ICML 2015. Grosse, Martens: A Kronecker-factored approximate Fisher
    matrix for convolution layers, ICML 2016.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainact.lab.methods.base import Method, MethodSettings
from trainact.lab.methods.first_layer import find_first_layer
from trainact.lab.methods.rules import Seen, damp_relative, put_rule, solve_right


def kfac(seen: Seen, lam: float) -> tuple[Tensor, Tensor]:
    """Multiply the weight's gradient by both inverses.

    Args:
        seen: of one call.
        lam: λ, relative to the mean eigenvalue of each factor.

    Returns:
        (gradient of the weight, that of the bias as it was).
    """
    num_rows = seen.rows.shape[1]
    outputs_GOO = num_rows * seen.grad_z.mT @ seen.grad_z
    inside_GOP = solve_right(seen.weight, damp_relative(seen.moment(), lam))
    both_GOP = torch.linalg.solve(damp_relative(outputs_GOO, lam), inside_GOP)
    tiny = torch.finfo(both_GOP.dtype).tiny
    length = inside_GOP.norm() / both_GOP.norm().clamp(min=tiny)
    return length * both_GOP, seen.bias


def _convert(model: nn.Module, settings: MethodSettings) -> nn.Module:
    _, layer = find_first_layer(model, settings)
    put_rule(layer, settings, kfac)
    return model


KFAC = Method(
    name="kfac",
    uses_lam=True,
    convert=_convert,
    summary="first layer's gradient preconditioned by the inputs and by the outputs",
)
