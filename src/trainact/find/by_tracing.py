"""Where is an input first combined with parameters, on its way through a model?

The model is run once, on shapes alone where they suffice (see `provenance`), else for
real. It is left as it was, down to the attributes that its forward sets.
"""

from __future__ import annotations

import sys
from collections import OrderedDict, defaultdict
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves, tree_map

from trainact.find.provenance import (
    RAW,
    FirstUse,
    Tracker,
    ValuesNeededError,
    empty_twin,
)

# Of a batch of images: samples, channels, height and width.
_IMAGE_DIMS = 4
# What a model's attributes are put back into. Subclasses may refuse to be changed, or
# do more than that.
_CONTAINERS = (dict, OrderedDict, defaultdict, list, set)


@dataclass(frozen=True)
class Trace:
    """What following an input showed.

    Attributes:
        first_uses: in the order of execution.
        used: qualified names of all parameters that took part, first or not.
        stopped_at: the operator at which shapes did not suffice; None if the model ran
            to its end.
    """

    first_uses: list[FirstUse]
    used: set[str]
    stopped_at: str | None = None


def follow(model: nn.Module, example_input: Any, *, may_compute: bool = True) -> Trace:
    """Run a model and note where its input is first combined with parameters.

    The example is what `trainact.first_layers` takes; `_images` says which of its
    tensors are followed. With ``may_compute`` the model is run for real where shapes do
    not suffice, else the trace ends there. Cost: the operators of one forward pass on
    shapes alone; a real forward pass where that fails. Whatever the model's forward
    raises is raised.
    """
    images = _images(example_input)
    if not images:
        msg = (
            "the example input holds no tensor that could be followed: it is a "
            f"{type(example_input).__name__}; pass what the model's forward takes"
        )
        raise ValueError(msg)
    is_meta = any(p.is_meta for p in model.parameters())
    try:
        trace = _run_on_shapes(model, example_input, images)
    except Exception:
        if is_meta or not may_compute:
            raise
    else:
        if trace.stopped_at is None or not may_compute:
            return trace
        if is_meta:
            msg = (
                f"the model's forward depends on values (it calls {trace.stopped_at}), "
                "and the model is on the meta device: build it with its weights, or "
                "name the first layer with layer='...'"
            )
            raise ValueError(msg)
    return _run(model, example_input, images, shapes_only=False)


def _run_on_shapes(model: nn.Module, example_input: Any, images: list[Tensor]) -> Trace:
    try:
        return _run(model, example_input, images, shapes_only=True)
    except RuntimeError as error:
        if "device" not in str(error):
            raise
        # Some kernels (those of recurrent layers) want their constants on one device
        # with the input.
        return _run(
            model, example_input, images, shapes_only=True, constants_stay_real=False
        )


def _images(example_input: Any) -> list[Tensor]:
    """The tensors to follow: images; without one, vectors; without these, token ids.

    Images are floating, complex or uint8 tensors of four or more dimensions. Beside
    them, tensors of fewer dimensions say what is wanted of them: times, embedded texts,
    masks.
    """
    tensors = [t for t in tree_leaves(_plain(example_input)) if isinstance(t, Tensor)]
    images = [
        t
        for t in tensors
        if t.is_floating_point() or t.is_complex() or t.dtype is torch.uint8
    ]
    return [t for t in images if t.ndim >= _IMAGE_DIMS] or images or tensors


def _run(
    model: nn.Module,
    example_input: Any,
    images: list[Tensor],
    *,
    shapes_only: bool,
    constants_stay_real: bool = True,
) -> Trace:
    running: list[str] = []
    tracker = Tracker(
        model,
        running,
        shapes_only=shapes_only,
        constants_stay_real=constants_stay_real,
    )
    followed = {id(t) for t in images}

    def enter(value: Any) -> Any:
        if id(value) not in followed:
            return value
        start = empty_twin(value) if shapes_only else value
        tracker.mark(start, RAW)
        return start

    arguments = tree_map(enter, _plain(example_input))
    stopped_at = None
    with (
        _undisturbed(model),
        _operators_visible(without_autocast=shapes_only),
        _noting_calls(model, running),
    ):
        try:
            with tracker:
                _call(unwrapped(model), arguments)
        except ValuesNeededError as error:
            stopped_at = str(error)
    return Trace(tracker.first_uses, tracker.used, stopped_at)


def unwrapped(model: nn.Module) -> nn.Module:
    """What a `DataParallel`, `DistributedDataParallel` or compiled model wraps."""
    if isinstance(model, nn.DataParallel | DistributedDataParallel):
        return unwrapped(model.module)
    inner = vars(model).get("_modules", {}).get("_orig_mod")
    return model if inner is None else unwrapped(inner)


def _plain(value: Any) -> Any:
    """Mappings of any class (a processor's output, say) as dicts."""
    is_mapping = isinstance(value, Mapping) or hasattr(value, "keys")
    return dict(cast("Mapping[str, Any]", value)) if is_mapping else value


def _call(model: nn.Module, arguments: Any) -> None:
    if isinstance(arguments, dict):
        model(**arguments)
    elif isinstance(arguments, tuple | list):
        model(*arguments)
    else:
        model(arguments)


@contextmanager
def _noting_calls(model: nn.Module, running: list[str]) -> Generator[None]:
    """Keep the names of the modules that are being called, outermost first."""
    names = {module: name for name, module in model.named_modules()}

    def enter(module: nn.Module, _: Any) -> None:
        running.append(names.get(module, ""))

    def leave(*_: Any) -> None:
        running.pop()

    entering = register_module_forward_pre_hook(enter)
    leaving = register_module_forward_hook(leave, always_call=True)
    try:
        yield
    finally:
        entering.remove()
        leaving.remove()


@contextmanager
def _undisturbed(model: nn.Module) -> Generator[None]:
    """Run the model in eval mode, and put back whatever the run changes."""
    modules = list(model.modules())
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with ExitStack() as stack:  # it undoes everything, whatever fails
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.random.fork_rng(devices=list(devices)))
        for module in modules:
            attributes = vars(module)
            for value in (attributes, *attributes.values()):
                if type(value) in _CONTAINERS:
                    stack.callback(_put_back, value, value.copy())
            stack.callback(setattr, module, "training", module.training)
        for module in modules:
            # Not eval(), which some models override to fuse their weights.
            module.training = False
        yield


def _put_back(container: Any, before: Any) -> None:
    container.clear()
    if isinstance(before, list):
        container.extend(before)
    else:
        container.update(before)


@contextmanager
def _operators_visible(*, without_autocast: bool) -> Generator[None]:
    """Switch off what hides operators, or where tensors come from.

    Fused attention and compiled code hide operators; autocast's cache hands out copies
    of weights. On shapes autocast is off, since it has no meta device.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    cached = torch.is_autocast_cache_enabled()
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fused)
        torch.backends.mha.set_fastpath_enabled(False)
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for kind in ("cpu", "cuda") if without_autocast else ():
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        stack.callback(torch.set_autocast_cache_enabled, cached)
        torch.set_autocast_cache_enabled(False)
        yield
