"""(A + λI)⁻¹ of a few entries by Triton, in one launch."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from trainact.damping import resolution
from trainact.kernels.device import OPTIONS, on_device
from trainact.kernels.inverse_kernel import damped_inverses

# Matrix elements that a thread holds, two registers each, where one warp is not enough.
# Compiled for sm_80 and sm_90 nothing is spilled up to 64 entries, a little at 128.
ELEMENTS_PER_THREAD = 16


def damped_inverse(
    products_GPP: Tensor,
    num_rows: int,
    lam: float,
    dtype: torch.dtype,
    relative: bool = False,
) -> Tensor:
    r"""Invert :math:`A + \lambda I`, with the safeguards of `factor.factorise`.

    λ is at least `trainact.damping.resolution` times tr A; where rounding leaves no
    positive definite matrix, the inverse of (tr A + λ) I; NaN where A is not finite. In
    float64 inside; ``dtype`` is that in which the products were formed, and that of the
    result. Of b times A, ``[G, P, P]``, the lower triangles are read; P is at most
    `trainact.kernels.choice.MAX_INVERSE_ENTRIES`.

    Cost: ``P**3`` multiplications in one program per group; no wait for the device.
    """
    products_GPP = products_GPP.contiguous()
    groups, size, _ = products_GPP.shape
    block, num_warps = launch_options(size)
    info = torch.finfo(dtype)
    result_GPP = torch.empty_like(products_GPP, dtype=dtype)
    kernel: Any = damped_inverses
    with on_device(products_GPP):
        kernel[(groups,)](
            products_GPP,
            result_GPP,
            float(num_rows),
            max(lam, info.tiny),
            lam / size if relative else 0.0,
            RESOLUTION=resolution(info.eps, torch.finfo(torch.float64).eps),
            TINY=info.tiny,
            NUM_ENTRIES=size,
            BLOCK=block,
            num_warps=num_warps,
            **OPTIONS,
        )
    return result_GPP


def launch_options(size: int) -> tuple[int, int]:
    """P rounded up to a power of two, and the warps whose threads hold the matrix."""
    block = max(16, triton.next_power_of_2(size))
    # Within one warp no barrier is needed.
    warps = 1 if block <= 32 else block**2 // (32 * ELEMENTS_PER_THREAD)
    return block, warps
