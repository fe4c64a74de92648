"""What launches of kernels have in common: the device and the compiler's options."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor

# Multiply-adds are rounded once. Set explicitly, since Triton's default will change.
OPTIONS = {"enable_fp_fusion": True}


def on_device(x: Tensor) -> AbstractContextManager[object]:
    """Make a tensor's device the current one, on which Triton launches."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
