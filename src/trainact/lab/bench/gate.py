r"""Right before fast: every arm's weight gradient against float64, on the timed input.

The truth is formed sample by sample from explicit patches in float64: the ordinary
gradient :math:`G = \nabla_z^\top X`, and :math:`G (X^\top X / b + \lambda I)^{-1}`. The
tests compare it with `trainact.reference`. An arm is given the whole input that it will
be timed on, since a small one may take another path.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trainact.diagnostics import gradient_rows
from trainact.gram.patches import extract_patches
from trainact.lab.bench.arms import BASELINE, MUST_WORK
from trainact.lab.bench.modes import Mode
from trainact.lab.bench.workload import LayerInput

# What the project promises in float32 for inputs of unit scale and lam = 0.1.
FLOAT32_PROMISE = 1e-5

# Others promised nothing: torch-tract's dual form subtracts two nearly equal matrices,
# and is off by 1.1e-5 for one patch embedding of 392 rows and 768 entries.
OTHERS_PROMISE = 1e-4

# How many times further than the plain layer in the same mode an arm may be off: it
# inherits that error, and the inverse amplifies it a little on nearly white inputs.
OVER_PLAIN = 4.0

# Rounding of the plain layer's own products, as the mode allows it.
TF32_EPS = 2.0**-10
CHUNK_BYTES = 2**28


@dataclass(frozen=True)
class Truth:
    """What the weight's gradient should be.

    Attributes:
        plain: the ordinary one, float64, in the weight's shape.
        tract: TrAct's, likewise.
    """

    plain: Tensor
    tract: Tensor

    def error(self, arm: str, grad: Tensor) -> float:
        """Compare an arm's gradient.

        Args:
            arm: its name.
            grad: its weight gradient.

        Returns:
            Norm of the difference over the norm of the truth.
        """
        truth = self.plain if arm.startswith(BASELINE) else self.tract
        return float((grad.double() - truth).norm() / truth.norm())


@torch.no_grad()
def find_truth(given: LayerInput, lam: float) -> Truth:
    """Form both gradients in float64.

    Args:
        given: the layer's input and the gradient of its output.
        lam: λ.

    Returns:
        The gradients. Cost: one unfolded chunk of at most `CHUNK_BYTES`.
    """
    groups, outputs, size = given.matrix_shape
    eye_PP = torch.eye(size, dtype=torch.float64, device=given.x.device)
    products_GPP = eye_PP.new_zeros(groups, size, size)
    grad_GOP = eye_PP.new_zeros(groups, outputs, size)
    bytes_of_one = 8 * groups * size * given.num_rows // len(given.x)
    samples = max(1, CHUNK_BYTES // bytes_of_one)
    for x, grad_z in zip(
        given.mapped.split(samples), given.grad_z.split(samples), strict=True
    ):
        rows_GNP = extract_patches(x.double(), given.geometry)
        grad_GNO = gradient_rows(grad_z.double(), given.geometry)
        products_GPP += rows_GNP.mT @ rows_GNP
        grad_GOP += grad_GNO.mT @ rows_GNP
    damped_GPP = products_GPP / given.num_rows + lam * eye_PP
    tract_GOP = torch.linalg.solve(damped_GPP, grad_GOP.mT).mT
    shape = given.weight.shape
    return Truth(grad_GOP.reshape(shape), tract_GOP.reshape(shape))


def tolerance(arm: str, plain_error: float) -> float:
    """Say how far an arm may be off.

    Args:
        arm: its name.
        plain_error: of vanilla's gradient in the same mode.

    Returns:
        The bound on the relative error.
    """
    promise = FLOAT32_PROMISE if arm in MUST_WORK else OTHERS_PROMISE
    return promise + OVER_PLAIN * plain_error


def plain_tolerance(mode: Mode, rows: int, device: torch.device) -> float:
    """Say how far the plain layer itself may be off.

    Its factors are rounded to the format in which the mode lets it multiply. Its sum
    over b rows of random sign is of the order of the root of b; added up one by one in
    float32, so is its rounding in units of that sum.

    Args:
        mode: how it is run.
        rows: b.
        device: where.

    Returns:
        The bound on the relative error.
    """
    eps = torch.finfo(torch.float32).eps
    if mode.bf16:
        factors = torch.finfo(torch.bfloat16).eps
    elif device.type == "cuda" and torch.backends.cudnn.allow_tf32:
        factors = TF32_EPS
    else:
        factors = eps
    return FLOAT32_PROMISE + OVER_PLAIN * (factors + eps * math.sqrt(rows))
