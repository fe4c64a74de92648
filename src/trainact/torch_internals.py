"""Every private name of PyTorch that trainact relies on, in one place.

Each was checked on torch 2.8 and 2.15; a release that drops one breaks here, and the
tests of the ways of training say which way.
"""

# pyright: reportPrivateUsage=false, reportAttributeAccessIssue=false

from __future__ import annotations

import torch
from torch.nn.parallel import DistributedDataParallel


def in_transform() -> bool:
    """Whether a `torch.func` transform (grad, vmap, jvp ...) is running, in eager mode.

    Returns:
        True inside a transform.
    """
    return torch._C._functorch.peek_interpreter_stack() is not None


def backward_task() -> int:
    """Number of the backward pass that is running.

    Returns:
        -1 outside of a backward.
    """
    return torch._C._current_graph_task_id()


def in_ddp_forward() -> bool:
    """Whether a `DistributedDataParallel` model is in its forward.

    Returns:
        True inside it.
    """
    return DistributedDataParallel._active_ddp_module is not None


def in_ddp_join() -> bool:
    """Whether that model is inside ``join()``, where ranks may run out of batches.

    Returns:
        True inside it.
    """
    active = DistributedDataParallel._active_ddp_module
    return active is not None and active._join_config.enable
