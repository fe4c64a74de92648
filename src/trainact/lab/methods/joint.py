r"""TrAct for weight and bias together: patches with a constant 1.

A step of the pre-activations, z = W x + c, may be made by W and by the bias c. Solved
for both, with the row (x, 1) in place of x:

    (G', g') = (G, g) (Ã + λ I)⁻¹,   Ã = [[A, μ], [μᵀ, 1]]

where μ is the mean row and g the gradient of c. Eliminating g' leaves

    G' = (G - g μᵀ / (1 + λ)) (A + λ I - μ μᵀ / (1 + λ))⁻¹
    g' = (g - G' μ) / (1 + λ)

which for small λ is the covariance in place of the second moment: the mean direction of
inputs that are all positive is taken out, and the bias answers for it.
"""

from __future__ import annotations

from torch import Tensor, nn

from trainact.lab.methods.base import Method, MethodSettings
from trainact.lab.methods.first_layer import find_first_layer
from trainact.lab.methods.rules import Seen, add_to_diagonal, put_rule, solve_right


def joint(seen: Seen, lam: float) -> tuple[Tensor, Tensor]:
    """Solve for weight and bias together.

    Args:
        seen: of one call.
        lam: λ, of both.

    Returns:
        (gradient of the weight, that of the bias).
    """
    mean_G1P = seen.rows.mean(1, keepdim=True)
    outer_GPP = mean_G1P.mT @ mean_G1P / (1 + lam)
    damped_GPP = add_to_diagonal(seen.moment() - outer_GPP, lam)
    bias_GO1 = seen.bias[..., None]
    centred_GOP = seen.weight - bias_GO1 * mean_G1P / (1 + lam)
    new_GOP = solve_right(centred_GOP, damped_GPP)
    new_GO1 = (bias_GO1 - new_GOP @ mean_G1P.mT) / (1 + lam)
    return new_GOP, new_GO1[..., 0]


def _convert(model: nn.Module, settings: MethodSettings) -> nn.Module:
    name, layer = find_first_layer(model, settings)
    if getattr(layer, "bias", None) is None:
        msg = (
            f"layer {name!r} has no bias to solve for together with its weight: "
            "take the method tract"
        )
        raise ValueError(msg)
    put_rule(layer, settings, joint)
    return model


TRACT_JOINT = Method(
    name="tract-joint",
    uses_lam=True,
    convert=_convert,
    summary="TrAct on the first layer's weight and bias together",
)
