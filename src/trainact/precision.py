"""In which precision statistics are formed, whatever the settings around them say.

Autocast and the global settings of matrix multiplication (TF32 on NVIDIA devices,
bfloat16 on some CPUs) may round the operands of a product to 8 or 11 bits. For the
layer's own products that is the user's choice. XᵀX / b and its inverse do not bear it:
what was rounded there comes back amplified by up to the condition number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainact.torch_internals import constant_in_graphs


def statistics_dtype(x: Tensor) -> torch.dtype:
    """Dtype in which products of input entries are formed: float32 or wider.

    Args:
        x: a layer's input.

    Returns:
        float64 for float64 inputs, otherwise float32.
    """
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """Dtype in which tiles are summed and systems are factorised.

    Args:
        x: a layer's input.

    Returns:
        float64, or float32 on devices that have no float64 (Apple's MPS).
    """
    return torch.float32 if x.device.type == "mps" else torch.float64


def full_precision(x: Tensor) -> torch.autocast:
    """Keep autocast from rounding A: in bfloat16 that alone costs 4 to 13 %.

    Args:
        x: a tensor on the device in question.

    Returns:
        A context.
    """
    return torch.autocast(x.device.type, enabled=False)


@constant_in_graphs
def rounds_float32(device_type: str) -> bool:
    """Whether float32 matrix products are rounded on a device, by the user's settings.

    Compiled code takes the answer of the moment when it is compiled, and is compiled
    again when `torch.set_float32_matmul_precision` is called.

    Args:
        device_type: such as ``"cuda"``.

    Returns:
        True under TF32 or bfloat16, whichever of PyTorch's ways asked for it.
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
    """Dtype for a small product that must not be rounded.

    Args:
        x: one of its factors, in the dtype that is enough.

    Returns:
        That dtype, or a wider one where the settings would round it.
    """
    rounds = x.dtype == torch.float32 and rounds_float32(x.device.type)
    return accumulation_dtype(x) if rounds else x.dtype
