"""Private names of PyTorch on which behaviour depends, in one place.

Each was checked on torch 2.8 and 2.15. If a release drops one, it fails here, and the
tests of the ways of training say which way of training is affected.
"""

# pyright: reportPrivateUsage=false, reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parallel import DistributedDataParallel

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def outside_graphs(
    function: Callable[Arguments, Result],
) -> Callable[Arguments, Result]:
    """`torch.compiler.disable`, without importing the compiler at the decoration.

    The compiler is as large as all the rest of torch: `import trainact` would double
    the time of `import torch`. The first call imports it, as an optimizer does.
    """
    return _disable_dynamo(function)


def constant_in_graphs(
    function: Callable[Arguments, Result],
) -> Callable[Arguments, Result]:
    """`torch.compiler.assume_constant_result`, without importing the compiler."""
    vars(function)["_dynamo_marked_constant"] = True
    return function


def in_transform() -> bool:
    """Whether a `torch.func` transform (grad, vmap, jvp ...) runs, in eager mode."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def in_forward_mode() -> bool:
    """Whether forward-mode differentiation (dual tensors, ``linearize``) is running."""
    return torch.autograd.forward_ad._current_level >= 0


@constant_in_graphs
def num_derivatives() -> int:
    """How many nested transforms that differentiate are running; vmap does not count.

    Compiled code is told those that were running when it was compiled.
    """
    transforms = torch._C._functorch.get_interpreter_stack() or []
    kinds = torch._C._functorch.TransformType
    return sum(one.key() in (kinds.Grad, kinds.Jvp) for one in transforms)


@constant_in_graphs
def graphs_differentiate() -> bool:
    """Whether code being compiled may call `torch.autograd.grad`, off by default."""
    return getattr(torch._dynamo.config, "trace_autograd_ops", False)


def outside_transforms(tensor: Tensor) -> Tensor:
    """The user's tensor that the running transforms have wrapped, in eager mode.

    Its ``requires_grad`` tells whether plain autograd differentiates it.
    """
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def is_readable(tensor: Tensor) -> bool:
    """Whether the host may read a tensor's values, in eager mode.

    Not in transforms, under dispatch modes (tracers, for one), of fake and meta
    tensors, or while a CUDA graph is captured.
    """
    return not (
        type(tensor) is not Tensor
        or torch._C._len_torch_dispatch_stack() > 0
        or tensor.is_meta
        or in_transform()
        or (tensor.is_cuda and torch.cuda.is_current_stream_capturing())
    )


def backward_task() -> int:
    """Number of the backward pass that is running; -1 outside of one."""
    return torch._C._current_graph_task_id()


def same_view(tensor: Tensor) -> Tensor:
    """A view of the same shape and strides, also of a DTensor.

    `Tensor.view_as` gives dimensions of size one strides of its own, after which some
    kernels take a channels_last weight for another layout.
    """
    return torch.ops.aten.alias.default(tensor)


def register_first_hook(leaf: Tensor, hook: Callable[[Tensor], Tensor]) -> Any:
    """`torch.Tensor.register_hook`, called before the hooks that a leaf has already."""
    handle = leaf.register_hook(hook)
    hooks: Any = leaf._backward_hooks
    for key in [key for key in hooks if key != handle.id]:
        hooks[key] = hooks.pop(key)  # C++ goes by the order of insertion
    return handle


def in_ddp_forward() -> bool:
    """Whether a `DistributedDataParallel` model is in its forward."""
    return DistributedDataParallel._active_ddp_module is not None


def ddp_averages() -> bool:
    """Whether that model will average these gradients: not inside ``no_sync``."""
    active = DistributedDataParallel._active_ddp_module
    return active is not None and active.require_backward_grad_sync


def in_ddp_join() -> bool:
    """Whether that model is inside ``join()``, where ranks may run out of batches."""
    active = DistributedDataParallel._active_ddp_module
    return active is not None and active._join_config.enable


def storage_of(tensor: Tensor) -> StorageWeakRef:
    """A weak reference to the memory that a tensor shares with its views.

    As long as it is held, its ``cdata`` names no other storage.
    """
    return StorageWeakRef(tensor.untyped_storage())


def written_arguments(
    func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[Any]:
    """Arguments that an ATen operator writes to, as its schema says."""
    if not func._schema.is_mutable:
        return []
    return [
        args[position] if position < len(args) else kwargs.get(argument.name)
        for position, argument in enumerate(func._schema.arguments)
        if argument.is_write
    ]


def post_accumulate_hooks(tensor: Tensor) -> dict[int, Any]:
    """What `Tensor.register_post_accumulate_grad_hook` has registered: key -> hook."""
    hooks: Any = tensor._post_accumulate_grad_hooks
    return {} if hooks is None else hooks
