"""Does the structure of a model alone tell its first layer, without running it?

It does if the first layer with parameters that the model registers is the only one that
could take the raw input. That is read from the numbers of channels: every other layer
must take the output of a layer registered before it, none may take an image, and no
bare parameter may fit the image. Anything else is a doubt, which is put into words and
left to tracing an input (`by_tracing`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrize import is_parametrized

Named = tuple[str, nn.Module]

# Images have up to this many channels: grey, grey and alpha, colour, colour and depth.
IMAGE_CHANNELS = 4
# Sides of the squares of pixels that are moved into channels.
UNSHUFFLED_SIDES = (2, 3, 4)
# Multiples of fewer outputs, and parts with fewer inputs, may be chance.
FEWEST_OUTPUTS = 8
FEWEST_SPLIT = 65

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# Activations with a parameter fit to any tensor, but nothing puts them before a layer.
_HARMLESS = (nn.PReLU, nn.Embedding)


@dataclass(frozen=True)
class Structure:
    """What was read from a model.

    Attributes:
        first: name of the first layer with parameters in the order of registration.
        doubt: why that may not be the first in the order of execution; None if it is.
        candidates: layers that may take the raw input, in the order of registration.
    """

    first: str
    doubt: str | None
    candidates: tuple[str, ...]


def read_structure(model: nn.Module) -> Structure | None:
    """Read the first layer off a model's modules; None if it has no parameters."""
    prefix, core = _descend("", model)
    owners = _parameter_owners(prefix, core)
    # Bare parameters of a container, such as a class token, are not layers.
    leaves = [(n, m) for n, m in owners if not _has_bare_parameters(m)]
    if not owners:
        return None
    if not leaves:
        return Structure(owners[0][0], "it has bare parameters only", ())
    name, first = leaves[0]
    if core is first:
        return Structure(name, None, (name,))
    further = [(n, m) for n, m in _candidates(owners, {name: first}) if m is not first]
    doubt = _doubt_about(name, first, leaves, [n for n, _ in further])
    doubt = doubt or _hint_against(core, prefix, name)
    candidates = [n for n, m in [(name, first), *further] if isinstance(m, LAYERS)]
    return Structure(name, doubt, tuple(candidates))


def further_candidates(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Linear and convolution layers that may be first beside those known to be."""
    firsts = {name: model.get_submodule(name) for name in names}
    owners = _parameter_owners("", model)
    return [
        name
        for name, module in _candidates(owners, firsts)
        if isinstance(module, LAYERS) and name not in firsts
    ]


def _parameter_owners(prefix: str, module: nn.Module) -> list[Named]:
    return [
        (f"{prefix}.{name}".strip("."), owner)
        for name, owner in module.named_modules()
        if _owns_parameters(owner) and ".parametrizations." not in f".{name}"
    ]


def _descend(name: str, module: nn.Module) -> tuple[str, nn.Module]:
    """The part of a model that the raw input enters, where that is beyond doubt.

    In an `nn.Sequential` it is the first child with parameters; a module that only has
    one child and no parameters of its own (DistributedDataParallel, a compiled model)
    hands its input to that.
    """
    children = list(module.named_children())
    with_parameters = [
        (n, m) for n, m in children if next(m.parameters(), None) is not None
    ]
    is_chain = type(module) is nn.Sequential or len(with_parameters) == 1
    if _owns_parameters(module) or not with_parameters or not is_chain:
        return name, module
    child_name, child = with_parameters[0]
    return _descend(f"{name}.{child_name}".strip("."), child)


def _owns_parameters(module: nn.Module) -> bool:
    own = module.parameters(recurse=False)
    return is_parametrized(module) or next(own, None) is not None


def _has_bare_parameters(module: nn.Module) -> bool:
    has_children = next(module.children(), None) is not None
    is_layer = isinstance(module, LAYERS)  # parametrised ones have children
    return has_children and not is_layer


def _candidates(owners: list[Named], firsts: dict[str, nn.Module]) -> Iterator[Named]:
    """Modules with parameters that could take what the first layers take."""
    taken = {inputs(first) for first in firsts.values()} - {None}
    outputs: set[int] = set()
    before: Named | None = None
    for name, module in owners:
        if _could_take((name, module), cast("set[int]", taken), outputs, before):
            yield name, module
        if isinstance(module, (*LAYERS, *_TRANSPOSED)):
            outputs.add(_outputs(module) or 0)
            before = name, module


def _could_take(
    named: Named, taken: set[int], outputs: set[int], before: Named | None
) -> bool:
    """Whether a module fits the raw input, given the outputs of layers before it."""
    name, module = named
    channels = inputs(module)
    if isinstance(module, _HARMLESS):
        return False
    if channels is None or isinstance(module, _TRANSPOSED):
        return any(_fits(p, taken) for p in module.parameters(recurse=False))
    if channels in taken or channels == 0:  # lazy layers have 0
        return True
    is_conv = isinstance(module, CONVS)
    if is_conv and channels <= IMAGE_CHANNELS:
        return not _follows_directly(name, module, before)
    may_be_image = is_conv and _is_unshuffled(channels, taken)
    is_derived = not may_be_image and _is_derived(channels, outputs)
    return not (channels in outputs or is_derived)


def _follows_directly(name: str, module: nn.Module, before: Named | None) -> bool:
    """Whether it takes the output of the layer beside it (squeeze and excitation)."""
    if before is None:
        return False
    same_parent = name.rpartition(".")[0] == before[0].rpartition(".")[0]
    is_pointwise = set(cast("Any", module).kernel_size) == {1}
    return same_parent and is_pointwise and _outputs(before[1]) == inputs(module)


def _is_unshuffled(channels: int, taken: set[int]) -> bool:
    """Whether they could be an image's, whose pixels were moved into channels."""
    return any(channels == n * side**2 for n in taken for side in UNSHUFFLED_SIDES)


def _is_derived(channels: int, outputs: set[int]) -> bool:
    """Whether they are a multiple or a part of the outputs of layers before."""
    is_multiple = any(channels % out == 0 for out in outputs if out >= FEWEST_OUTPUTS)
    is_part = any(k * channels in outputs for k in (2, 3, 4))
    return is_multiple or (is_part and channels >= FEWEST_SPLIT)


def _fits(parameter: Tensor, taken: set[int]) -> bool:
    """Whether a parameter of unknown use could be combined with the raw input."""
    if isinstance(parameter, UninitializedParameter) or parameter.numel() == 1:
        return True
    return not taken or not taken.isdisjoint(parameter.shape)


def _doubt_about(
    name: str, first: nn.Module, leaves: list[Named], further: list[str]
) -> str | None:
    kind = type(first).__name__
    if not isinstance(first, LAYERS):
        return f"the first module with parameters, {name!r}, is a {kind}"
    if further:
        listed = ", ".join(map(repr, further[:3])) + (" ..." if further[3:] else "")
        return f"besides {name!r} ({kind}), {listed} could take the raw input"
    taken = inputs(first)
    if taken is not None and taken > IMAGE_CHANNELS:
        for other, module in leaves:
            if module is not first and _outputs(module) == taken:
                return f"{name!r} ({kind}) could take the output of {other!r}"
    return None


def _hint_against(model: nn.Module, prefix: str, name: str) -> str | None:
    """What the model's metadata says against it (timm's is sometimes wrong)."""
    config = getattr(model, "pretrained_cfg", None)
    claimed: Any = config.get("first_conv") if isinstance(config, Mapping) else None
    if not claimed:
        return None
    names = (claimed,) if isinstance(claimed, str) else claimed
    modules = dict(model.named_modules(remove_duplicate=False))
    known = [f"{prefix}.{n}".strip(".") for n in names if n in modules]
    if known in ([], [name]):
        return None
    return f"its metadata names {', '.join(map(repr, known))} instead of {name!r}"


def inputs(module: nn.Module) -> int | None:
    """Number of channels or features that a layer takes; None if it cannot be told."""
    return _first_integer(module, "in_channels", "in_features")


def _outputs(module: nn.Module) -> int | None:
    return _first_integer(module, "out_channels", "out_features", "embedding_dim")


def _first_integer(module: nn.Module, *names: str) -> int | None:
    values = (getattr(module, name, None) for name in names)
    return next((value for value in values if isinstance(value, int)), None)
