"""In which precision are statistics formed, whatever the user's settings are?

Autocast and the global settings of matrix multiplication (TF32 on NVIDIA devices,
bfloat16 on some CPUs) may round the operands of a product to 8 or 11 bits. For the
layer's own products that is the user's choice. XᵀX / b and its inverse do not bear it:
the rounding comes back multiplied by up to the condition number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainact.torch_internals import constant_in_graphs


def statistics_dtype(x: Tensor) -> torch.dtype:
    """Dtype of products of input entries: float64 for float64 inputs, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """Dtype of tile sums and of factorisations: float64, or float32 on Apple's MPS."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def full_precision(x: Tensor) -> torch.autocast:
    """Keep autocast from rounding A: in bfloat16 that alone costs 4 to 13 %."""
    return torch.autocast(x.device.type, enabled=False)


@constant_in_graphs
def rounds_float32(device_type: str) -> bool:
    """Whether the user's settings round float32 matrix products (TF32, bfloat16).

    Compiled code takes the answer of the moment when it is compiled, and is compiled
    again when `torch.set_float32_matmul_precision` is called.
    """
    # Since torch 2.9 each backend has a setting of its own, and the older spelling
    # raises once the newer one has been used.
    name = "cuda" if device_type == "cuda" else "mkldnn"
    matmul: Any = getattr(getattr(torch.backends, name), "matmul", None)
    setting = getattr(matmul, "fp32_precision", None)
    if setting is None:
        return torch.get_float32_matmul_precision() != "highest"
    return setting not in ("ieee", "none")


def product_dtype(x: Tensor) -> torch.dtype:
    """Dtype for a small product: that of ``x``, or wider if that would be rounded."""
    rounds = x.dtype == torch.float32 and rounds_float32(x.device.type)
    return accumulation_dtype(x) if rounds else x.dtype
