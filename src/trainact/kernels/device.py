"""Where a kernel runs, and what all launches have in common."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor

# Multiply-adds are rounded once. Said explicitly, as Triton's default is to change.
OPTIONS = {"enable_fp_fusion": True}


def on_device(x: Tensor) -> AbstractContextManager[object]:
    """Make a tensor's device the current one: Triton launches on that.

    Args:
        x: an argument of the kernel.

    Returns:
        A context.
    """
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
