r"""TrAct in the units of its input: G keeps the factor that the input gives it.

    G (A / t + λ I)⁻¹,   t = tr A / n

t is the mean square of the input's entries, so that A / t does not know how large these
are. Multiplying the input by c multiplies G by c, and this by c as well, where plain
TrAct (`trainact.TrAct`, also with a relative λ) shrinks by c. Behind a norm, which
divides ∇z by c, the step of W is then what it was, as in vanilla training; where no
norm follows it grows with c² relative to W as vanilla training's does. With t = 1, as
for standardised inputs, it is plain TrAct.
"""

from __future__ import annotations

from torch import Tensor, nn

from trainact.lab.methods.base import Method, MethodSettings
from trainact.lab.methods.first_layer import find_first_layer
from trainact.lab.methods.rules import Seen, damp_relative, put_rule, solve_right


def scaled(seen: Seen, lam: float) -> tuple[Tensor, Tensor]:
    """Precondition the weight's gradient by the input's shape alone.

    Args:
        seen: of one call.
        lam: λ, of inputs of mean square 1.

    Returns:
        (gradient of the weight, that of the bias as it was).
    """
    moment_GPP = seen.moment()
    size_G = moment_GPP.diagonal(dim1=-2, dim2=-1).mean(-1)
    # Both sides multiplied by t.
    weight_GOP = size_G[:, None, None] * seen.weight
    return solve_right(weight_GOP, damp_relative(moment_GPP, lam)), seen.bias


def _convert(model: nn.Module, settings: MethodSettings) -> nn.Module:
    _, layer = find_first_layer(model, settings)
    put_rule(layer, settings, scaled)
    return model


TRACT_SCALED = Method(
    name="tract-scaled",
    uses_lam=True,
    convert=_convert,
    summary="TrAct whose step grows with the input's scale, as vanilla training's",
)
