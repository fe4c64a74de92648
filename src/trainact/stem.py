"""Which layers of this model are its first layers?

Two ways to tell. By structure: the first layer with parameters, where the order of
registration is known to be the order of execution, or where its name is one of the
spellings that stems have. By following an example input: run the model once and see
which layers the raw input reaches before it has met any parameter. Where neither gives
a clear answer, the error lists the candidates.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from trainact.layers import TRACT_CLASSES, TrActLayer
from trainact.subclasses import why_not_subclass, why_not_weight

# Names that first layers have in torchvision, timm, Transformers, MONAI and the
# repositories of the paper. A name counts only if nothing with parameters precedes it.
STEM_NAMES = (
    "conv1", "*.conv1", "conv1.0", "*.conv1.0", "conv_stem", "*.conv_stem",
    "patch_embed.proj", "*.patch_embed.proj", "patch_embed.conv.0",
    "patch_embed.backbone.*", "*.patch_embeddings.projection",
    "*.patch_embedding", "patch_embedding.*", "conv_proj",
    "features.0", "features.0.0", "features.conv0", "features.0.*",
    "stem", "stem.0", "stem.0.0", "stem.proj", "stem.conv", "stem.conv1",
    "stem.conv1.conv", "stem.conv.0", "stem_0", "stem_conv", "*.stem.0",
    "*.embedder.convolution",
    "Conv2d_1a_3x3.conv", "conv2d_1a.conv", "conv0.conv", "features.conv_1.conv",
    "embed", "emb", "embedding", "fc0", "fc1", "linear1", "proj_in", "layers.0",
"net.0", )  # fmt: skip


def first_layers(model: nn.Module, example_input: Any = None) -> dict[str, nn.Module]:
    """Find the linear maps that the raw input reaches first.

    Without an example the model's structure must give the answer. With one, the model
    is run once, in eval mode and without gradients, and the input is followed through
    everything that has no parameters (normalisation by constants, padding, reshaping,
    space-to-depth) up to the first layer with parameters on each path.

    Args:
        model: any module.
        example_input: a tensor, a tuple of positional arguments or a dict of keyword
            arguments, on the model's device. Cost: one forward pass. The modes of the
            modules and the random state are put back.

    Returns:
        Qualified name -> layer, as `trainact.apply` would choose; several for a model
        with several stems.

    Raises:
        ValueError: if no first layer can be told, or it is of an unsupported type. The
            message lists the candidates.

    Example:
        >>> import torch, trainact
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        >>> trainact.first_layers(model)
        {'1': Linear(in_features=64, out_features=10, bias=True)}
    """
    if example_input is not None:
        return _follow(model, example_input)
    name, module = next(_parametrised(model), (None, None))
    if name is None or module is None:
        msg = "the model has no parameters, so there is no first layer to train"
        raise ValueError(msg)
    if not _is_certain(model, name):
        msg = (
            "cannot tell the first layer from the model's structure: name it with "
            f"layer='...', or pass example_input=. {candidates(model)}"
        )
        raise ValueError(msg)
    check_supported(name, module)
    return {name: module}


def check_supported(name: str, module: nn.Module) -> None:
    """Refuse a layer that TrAct cannot train exactly.

    Args:
        name: for the message.
        module: the layer.

    Raises:
        ValueError: that says what was seen and what to do.
    """
    refusal = _why_not(module)
    if refusal:
        subject = f"layer {name!r}" if name else "the layer"
        msg = f"{subject} is a {type(module).__name__}{refusal}"
        raise ValueError(msg)


def candidates(model: nn.Module, limit: int = 8) -> str:
    """List the layers that a user may mean.

    Args:
        model: any module.
        limit: how many to name.

    Returns:
        A sentence for an error message.
    """
    names = [
        f"{name!r} ({type(module).__name__})"
        for name, module in model.named_modules()
        if isinstance(module, tuple(TRACT_CLASSES))
        and not isinstance(module, TrActLayer)
    ]
    if not names:
        return "It has no Linear or Conv1d/2d/3d layer."
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"Candidates, in order: {', '.join(names[:limit])}{more}."


def _why_not(module: nn.Module) -> str | None:
    """Why TrAct cannot train this layer, to follow its type in a sentence."""
    if isinstance(module, TrActLayer):
        return (
            " already: change λ with layer.lam = ..., or take TrAct off first with "
            "trainact.remove"
        )
    if isinstance(module, LazyModuleMixin):
        return ", which has no weight yet: run one batch through the model first"
    kinds = tuple(TRACT_CLASSES)
    if not isinstance(module, kinds):
        is_namesake = any(type(module).__name__ == kind.__name__ for kind in kinds)
        origin = f" of {type(module).__module__}, not torch.nn" if is_namesake else ""
        return (
            f"{origin}: TrAct trains Linear and Conv1d/2d/3d; name one of those with "
            "layer='...'"
        )
    if "forward" in vars(module):
        return (
            " whose forward was replaced on the instance (as offloading hooks do): "
            "apply trainact before that"
        )
    return why_not_weight(module) or why_not_subclass(module)


def _parametrised(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Leaf modules with parameters of their own, in the order of registration."""
    for name, module in model.named_modules():
        # A linear layer may have children: its parametrizations, or a norm of its own.
        is_linear = isinstance(module, tuple(TRACT_CLASSES))
        is_leaf = is_linear or next(module.children(), None) is None
        if is_leaf and next(module.parameters(), None) is not None:
            yield name, module


def _is_certain(model: nn.Module, name: str) -> bool:
    """Whether the first registered layer is surely the first executed one."""
    if any(fnmatchcase(name, pattern) for pattern in STEM_NAMES):
        return True
    parent = model
    for part in name.split(".") if name else ():
        if type(parent) is not nn.Sequential:
            return False
        parent = parent.get_submodule(part)
    return True


def _follow(model: nn.Module, example_input: Any) -> dict[str, nn.Module]:
    reached: dict[str, nn.Module] = {}
    tracker = _Tracker(example_input)
    handles = [
        module.register_forward_pre_hook(
            _note_raw_input(tracker, reached, name), with_kwargs=True
        )
        for name, module in _parametrised(model)
    ]
    try:
        with _evaluating(model), torch.no_grad(), tracker:
            _call(model, example_input)
    finally:
        for handle in handles:
            handle.remove()
    if not reached:
        msg = (
            "the example input reached no layer with parameters before it met other "
            f"parameters: name the first layer with layer='...'. {candidates(model)}"
        )
        raise ValueError(msg)
    for name, module in reached.items():
        check_supported(name, module)
    return reached


def _note_raw_input(tracker: _Tracker, reached: dict[str, nn.Module], name: str) -> Any:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
        if any(tracker.is_raw(tensor) for tensor in tree_leaves((args, kwargs))):
            reached[name] = module

    return hook


class _Tracker(TorchFunctionMode):
    """Marks what has been computed from the raw input alone, and from parameters."""

    def __init__(self, example_input: Any) -> None:
        super().__init__()
        # Marks are by identity; holding the tensors keeps identities from being reused.
        self._raw = {id(t): t for t in tree_leaves(example_input) if _is_tensor(t)}
        self._parametric: dict[int, Tensor] = {}

    def is_raw(self, value: Any) -> bool:
        return id(value) in self._raw

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = [t for t in tree_leaves((args, kwargs)) if _is_tensor(t)]
        outputs = [t for t in tree_leaves(result) if _is_tensor(t)]
        if any(
            isinstance(t, nn.Parameter) or id(t) in self._parametric for t in inputs
        ):
            self._parametric.update((id(t), t) for t in outputs)
            for tensor in outputs:
                self._raw.pop(id(tensor), None)
        elif any(self.is_raw(t) for t in inputs):
            self._raw.update((id(t), t) for t in outputs)
        return result


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


@contextmanager
def _evaluating(model: nn.Module) -> Generator[None]:
    modes = {module: module.training for module in model.modules()}
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=list(devices)):
            model.eval()
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def _call(model: nn.Module, example_input: Any) -> None:
    if isinstance(example_input, Mapping):
        model(**example_input)
    elif isinstance(example_input, tuple | list):
        model(*example_input)
    else:
        model(example_input)
