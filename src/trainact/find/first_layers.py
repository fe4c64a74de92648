"""Which layers of a model are its first layers, and can TrAct train them?

Where no clear answer can be given (see `entry_points`), the error lists the candidates.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from trainact.find.entry_points import EntryPoint, find_entry_points
from trainact.layers.plain import TRACT_CLASSES, TrActLayer
from trainact.layers.subclasses import why_not_subclass, why_not_weight

_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)
# Candidates that a message lists at most.
_MOST_LISTED = 8
REASONS: tuple[tuple[Any, str], ...] = (
    (
        _NORMS,
        "a norm with trained scales in front: the layers behind it do not see the raw "
        "input; with affine=False, or normalised data, they would",
    ),
    (
        (nn.Embedding, nn.EmbeddingBag),
        "a table is looked up: there are no inputs to it",
    ),
    (nn.MultiheadAttention, "attention on the raw input, one module for four maps"),
    (nn.RNNBase, "a recurrent layer on the raw input, one module for many maps"),
)


def first_layers(model: nn.Module, example_input: Any = None) -> dict[str, nn.Module]:
    """Find the linear maps that the raw input reaches first.

    Without an example the model's structure is read, which is enough if only the first
    registered layer can take the input; else the model is traced, on shapes alone, with
    an input constructed from its configuration. An example is followed through
    everything that has no parameters (normalisation by constants, padding, reshaping,
    space-to-depth), up to the first layer with parameters on each path. A later layer
    that sees the raw input together with features is not a first layer.

    Args:
        model: any module, on any device, meta included. It is left as it was.
        example_input: a tensor, a tuple of positional arguments or a mapping of keyword
            arguments. Beside images (four dimensions or more) nothing else in it is
            followed: no times, masks or embedded texts. Only its shapes are used,
            unless the model's forward depends on values: then the model is run for
            real, once.

    Returns:
        Qualified name -> layer, as `trainact.apply` would choose, in the order of
        execution; several for a model with several stems. Cost: a walk over the modules
        where that is enough, else about the time of a forward pass of one image.

    Raises:
        ValueError: if no first layer can be told, or one of them is of an unsupported
            type. The message lists the candidates.

    Examples:
        >>> import torch, trainact
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        >>> trainact.first_layers(model)
        {'1': Linear(in_features=64, out_features=10, bias=True)}
    """
    entries = _entry_points(model, example_input)
    refusals = {e.name: why for e in entries if (why := _refusal(e))}
    if refusals:
        trainable = [e.name for e in entries if e.name not in refusals]
        msg = f"{'; '.join(refusals.values())}. "
        if trainable:
            msg += f"To train only what TrAct can train here, pass layer={trainable}. "
        raise ValueError(msg + list_candidates(model))
    return {e.name: e.module for e in entries}


def find_first_layers(
    model: nn.Module, example_input: Any = None
) -> dict[str, nn.Module]:
    """As `first_layers`, of whatever type the modules are; a ValueError if unclear."""
    return {e.name: e.module for e in _entry_points(model, example_input)}


def _entry_points(model: nn.Module, example_input: Any) -> list[EntryPoint]:
    if next(model.parameters(), None) is None:
        raise ValueError(_without_parameters(model))
    entries, doubt = find_entry_points(model, example_input)
    if not entries:
        msg = f"cannot tell the first layer: {doubt} {list_candidates(model)}"
        raise ValueError(msg)
    return entries


def _refusal(entry: EntryPoint) -> str | None:
    """Why TrAct cannot train an entry point; None if it can."""
    try:
        check_supported(entry.name, entry.module)
    except ValueError as error:
        known = (why for kinds, why in REASONS if isinstance(entry.module, kinds))
        reason = next(known, entry.obstacle)
        return f"{error} ({reason})" if reason else str(error)
    if entry.obstacle:
        return f"layer {entry.name!r}: {entry.obstacle}"
    return None


def _without_parameters(model: nn.Module) -> str:
    if any("quantized" in type(m).__module__ for m in model.modules()):
        return (
            "the model is quantised: its weights are packed integers, which are not "
            "trained; apply trainact to the floating-point model"
        )
    return "the model has no parameters, so there is no first layer to train"


def check_supported(name: str, module: nn.Module) -> None:
    """Refuse a layer that TrAct cannot train, with a ValueError that says why."""
    refusal = _why_not(module)
    if refusal:
        subject = f"layer {name!r}" if name else "the layer"
        msg = f"{subject} is a {type(module).__name__}{refusal}"
        raise ValueError(msg)


def list_candidates(model: nn.Module) -> str:
    """A sentence for error messages that lists the layers that a user may mean."""
    names = [
        f"{name!r} ({type(module).__name__})"
        for name, module in model.named_modules()
        if isinstance(module, tuple(TRACT_CLASSES))
        and not isinstance(module, TrActLayer)
    ]
    if not names:
        return "It has no Linear or Conv1d/2d/3d layer."
    listed, rest = names[:_MOST_LISTED], names[_MOST_LISTED:]
    more = f" and {len(rest)} more" if rest else ""
    return f"Candidates, in order: {', '.join(listed)}{more}."


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
