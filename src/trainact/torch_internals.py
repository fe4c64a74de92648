"""Private names of PyTorch on which behaviour depends, in one place.

Each was checked on torch 2.8 and 2.15; a release that drops one breaks here, and the
tests of the ways of training say which way.
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
    the time of `import torch`.

    Args:
        function: that compiled code calls as it is.

    Returns:
        The function; its first call imports the compiler, as an optimizer does.
    """
    return _disable_dynamo(function)


def constant_in_graphs(
    function: Callable[Arguments, Result],
) -> Callable[Arguments, Result]:
    """`torch.compiler.assume_constant_result`, without importing the compiler.

    Args:
        function: whose answer at compilation stands in compiled code.

    Returns:
        The same function, with the mark that the compiler looks for.
    """
    vars(function)["_dynamo_marked_constant"] = True
    return function


def in_transform() -> bool:
    """Whether a `torch.func` transform (grad, vmap, jvp ...) is running, in eager mode.

    Returns:
        True inside a transform.
    """
    return torch._C._functorch.peek_interpreter_stack() is not None


def in_forward_mode() -> bool:
    """Whether forward-mode differentiation (dual tensors, ``linearize``) is running.

    Returns:
        True inside ``torch.autograd.forward_ad.dual_level``.
    """
    return torch.autograd.forward_ad._current_level >= 0


@constant_in_graphs
def num_derivatives() -> int:
    """How many transforms that differentiate are running, each inside the one before.

    Returns:
        Without vmap; compiled code is told those around it when it is compiled.
    """
    transforms = torch._C._functorch.get_interpreter_stack() or []
    kinds = torch._C._functorch.TransformType
    return sum(one.key() in (kinds.Grad, kinds.Jvp) for one in transforms)


@constant_in_graphs
def graphs_differentiate() -> bool:
    """Whether compiled code may call `torch.autograd.grad`, off by default.

    Returns:
        Dynamo's setting, for code that is being compiled.
    """
    return getattr(torch._dynamo.config, "trace_autograd_ops", False)


def outside_transforms(tensor: Tensor) -> Tensor:
    """What the transforms that are running have wrapped.

    Args:
        tensor: in eager mode.

    Returns:
        The user's tensor, which says whether plain autograd differentiates it.
    """
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def is_readable(tensor: Tensor) -> bool:
    """Whether the host may read a tensor's values, in eager mode.

    Args:
        tensor: on any device.

    Returns:
        False in transforms, under dispatch modes (tracers, for one), for fake and meta
        tensors and while a CUDA graph is captured.
    """
    return not (
        type(tensor) is not Tensor
        or torch._C._len_torch_dispatch_stack() > 0
        or tensor.is_meta
        or in_transform()
        or (tensor.is_cuda and torch.cuda.is_current_stream_capturing())
    )


def backward_task() -> int:
    """Number of the backward pass that is running.

    Returns:
        -1 outside of a backward.
    """
    return torch._C._current_graph_task_id()


def same_view(tensor: Tensor) -> Tensor:
    """The same tensor as another object, with the same strides.

    `Tensor.view_as` gives dimensions of size one strides of its own, after which some
    kernels take a channels_last weight for another layout.

    Args:
        tensor: any, also a DTensor.

    Returns:
        A view of it.
    """
    return torch.ops.aten.alias.default(tensor)


def register_first_hook(leaf: Tensor, hook: Callable[[Tensor], Tensor]) -> Any:
    """`torch.Tensor.register_hook`, to be called before the hooks that are there.

    Args:
        leaf: a tensor that is a leaf.
        hook: given its gradient, returns the one to use.

    Returns:
        The handle, to remove it.
    """
    handle = leaf.register_hook(hook)
    hooks: Any = leaf._backward_hooks
    for key in [key for key in hooks if key != handle.id]:
        hooks[key] = hooks.pop(key)  # C++ goes by the order of insertion
    return handle


def in_ddp_forward() -> bool:
    """Whether a `DistributedDataParallel` model is in its forward.

    Returns:
        True inside it.
    """
    return DistributedDataParallel._active_ddp_module is not None


def ddp_averages() -> bool:
    """Whether that model will average the gradients of this forward.

    Returns:
        False outside of it and inside ``no_sync``.
    """
    active = DistributedDataParallel._active_ddp_module
    return active is not None and active.require_backward_grad_sync


def in_ddp_join() -> bool:
    """Whether that model is inside ``join()``, where ranks may run out of batches.

    Returns:
        True inside it.
    """
    active = DistributedDataParallel._active_ddp_module
    return active is not None and active._join_config.enable


def storage_of(tensor: Tensor) -> StorageWeakRef:
    """A name for the memory that a tensor shares with its views.

    Args:
        tensor: on any device.

    Returns:
        Weak reference; as long as it is held, its ``cdata`` names no other storage.
    """
    return StorageWeakRef(tensor.untyped_storage())


def written_arguments(
    func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[Any]:
    """Arguments that an operator writes to.

    Args:
        func: an ATen operator, as a dispatch mode gets it.
        args: its positional arguments.
        kwargs: its keyword arguments.

    Returns:
        Those that its schema marks as written.
    """
    if not func._schema.is_mutable:
        return []
    written: list[Any] = []
    for position, argument in enumerate(func._schema.arguments):
        if argument.is_write:
            if position < len(args):
                written.append(args[position])
            else:
                written.append(kwargs.get(argument.name))
    return written


def post_accumulate_hooks(tensor: Tensor) -> dict[int, Any]:
    """What `Tensor.register_post_accumulate_grad_hook` has registered.

    Args:
        tensor: any.

    Returns:
        Key -> hook, as the tensor holds them.
    """
    hooks: Any = tensor._post_accumulate_grad_hooks
    return {} if hooks is None else hooks
