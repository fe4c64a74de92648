"""Which layers of this model are its first layers?

Three ways to tell, the first one that is certain counts: what the model is made of
(`structure`), an input made up from what the model says that it takes (`examples`) and
followed on shapes alone (`follow`), or the user's own example input, followed the same
way. Where none gives a clear answer, the error lists the candidates.
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter

from trainact.examples import IMAGE_NAMES, make_examples
from trainact.follow import Trace, follow
from trainact.layers import TRACT_CLASSES, TrActLayer
from trainact.origins import Meeting
from trainact.structure import Structure, read_structure, suspects_beside

# Operators of ATen that a Linear or Conv1d/2d/3d consists of.
LINEAR_MAPS = {
    *("convolution", "addmm", "mm", "bmm", "baddbmm", "mv", "addmv"),
    # as they come in inference mode
    *("conv1d", "conv2d", "conv3d", "linear", "matmul"),
}

# Inputs that are made up and tried before giving up.
MOST_EXAMPLES = 100

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

    Without an example the model's structure tells, if nothing but the first registered
    layer can take the input; else the model is traced, on shapes alone, with an input
    made up from its configuration. With an example that is followed, through everything
    that has no parameters (normalisation by constants, padding, reshaping,
    space-to-depth), up to the first layer with parameters on each path. A later layer
    that sees the raw input together with features is not a first layer.

    Args:
        model: any module, on any device, meta included. It is left as it was.
        example_input: a tensor, a tuple of positional arguments or a mapping of keyword
            arguments. Only its shapes are looked at, unless the model's forward depends
            on values: then the model is run for real, once.

    Returns:
        Qualified name -> layer, as `trainact.apply` would choose, in the order of
        execution; several for a model with several stems. Cost: a walk over the modules
        where the structure tells, else about the time of a forward pass of one image.

    Raises:
        ValueError: if no first layer can be told, or one of them is of an unsupported
            type. The message lists the candidates.

    Example:
        >>> import torch, trainact
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        >>> trainact.first_layers(model)
        {'1': Linear(in_features=64, out_features=10, bias=True)}
    """
    arrivals = _arrivals(model, example_input)
    refusals = {a.name: why for a in arrivals if (why := _refusal(a))}
    if refusals:
        others = [a.name for a in arrivals if a.name not in refusals]
        msg = f"{'; '.join(refusals.values())}. "
        if others:
            msg += f"To train only what TrAct can train here, pass layer={others}. "
        raise ValueError(msg + candidates(model))
    return {a.name: a.module for a in arrivals}


def find_first_layers(
    model: nn.Module, example_input: Any = None
) -> dict[str, nn.Module]:
    """Find the modules whose parameters the raw input meets first, of whatever type.

    Args:
        model: as for `first_layers`.
        example_input: as for `first_layers`.

    Returns:
        Qualified name -> module.

    Raises:
        ValueError: if it cannot be told.
    """
    return {a.name: a.module for a in _arrivals(model, example_input)}


@dataclass(frozen=True)
class _Arrival:
    """A module that the raw input reaches, and how where it is not a plain call."""

    name: str
    module: nn.Module
    obstacle: str | None = None


def _arrivals(model: nn.Module, example_input: Any) -> list[_Arrival]:
    structure = read_structure(model)
    if structure is None:
        raise ValueError(_without_parameters(model))
    if example_input is None and structure.doubt is None:
        return [_Arrival(structure.first, model.get_submodule(structure.first))]
    if example_input is None:
        meetings = _follow_made_up(model, structure)
        doubt = structure.doubt
        remedy = "name it with layer='...', or pass example_input=."
    else:
        meetings = follow(model, example_input).meetings
        doubt = "the example input reached no parameters"
        remedy = "name it with layer='...'."
    if not meetings:
        msg = f"cannot tell the first layer: {doubt}; {remedy} {candidates(model)}"
        raise ValueError(msg)
    arrivals = [a for meeting in meetings for a in _at(model, meeting)]
    return list({a.name: a for a in reversed(arrivals)}.values())[::-1]


def _follow_made_up(model: nn.Module, structure: Structure) -> list[Meeting]:
    """Follow the first made-up input that the model accepts, if that settles it.

    Returns:
        The meetings; none if no input was conclusive.
    """
    if any(isinstance(p, UninitializedParameter) for p in model.parameters()):
        return []
    suspects = [model.get_submodule(name) for name in structure.suspects]
    for example in itertools.islice(make_examples(model, suspects), MOST_EXAMPLES):
        try:
            with warnings.catch_warnings(action="ignore"):
                trace = follow(model, example, may_compute=False)
        except Exception:  # it was not what the model takes
            continue
        if trace.meetings and _is_conclusive(model, example, trace):
            return trace.meetings
    return []


def _is_conclusive(model: nn.Module, example: Any, trace: Trace) -> bool:
    """Whether what a made-up input reaches is all that an input would reach.

    It is if the model itself calls that its main input, as Transformers' models do, or
    if whatever else could take an input took part: a layer that was left out may be the
    first of another input. Of blocks in a list one stands for all, but a list's first
    layers are not alike, since its next stem may wait for another input.

    Returns:
        True if nothing can have been overlooked.
    """
    main_input = getattr(model, "main_input_name", None)
    if isinstance(example, dict) and main_input in IMAGE_NAMES:
        return main_input in example and trace.stopped_at is None
    firsts = [owner for m in trace.meetings for owner in _owners(m.parameters)]
    used = set(_owners(trace.used))
    alike = {_without_numbers(name) for name in used.difference(firsts)}
    return all(
        name in used or _without_numbers(name) in alike
        for name in suspects_beside(model, firsts)
    )


def _without_numbers(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _owners(parameters: Iterable[str]) -> dict[str, str]:
    """Names of the modules that own parameters -> one of these."""
    owners: dict[str, str] = {}
    for parameter in parameters:
        path = parameter.partition(".parametrizations.")[0]
        is_own = path == parameter
        owners.setdefault(path.rpartition(".")[0] if is_own else path, parameter)
    return owners


def _at(model: nn.Module, meeting: Meeting) -> list[_Arrival]:
    """The modules that own the parameters of a meeting."""
    arrivals: list[_Arrival] = []
    for owner, parameter in _owners(meeting.parameters).items():
        obstacle = None
        if meeting.operator not in LINEAR_MAPS:
            obstacle = f"the input meets {parameter!r} in {meeting.operator!r}"
        elif meeting.is_gated:
            obstacle = (
                "it sees the input times features (as behind squeeze and excitation or "
                "a spatial transformer), which may or may not be meant as first"
            )
        elif owner not in meeting.callers:
            caller = meeting.callers[-1] if meeting.callers else ""
            obstacle = (
                f"{parameter!r} is used by {caller!r}, not in its own layer's forward, "
                "where TrAct would see it"
            )
        arrivals.append(_Arrival(owner, model.get_submodule(owner), obstacle))
    return arrivals


def _refusal(arrival: _Arrival) -> str | None:
    """Why TrAct cannot train it."""
    try:
        check_supported(arrival.name, arrival.module)
    except ValueError as error:
        reason = _reason(arrival.module) or arrival.obstacle
        return f"{error} ({reason})" if reason else str(error)
    if arrival.obstacle:
        return f"layer {arrival.name!r}: {arrival.obstacle}"
    return None


def _reason(module: nn.Module) -> str | None:
    """What keeps TrAct from a kind of module that stands in front at times."""
    for kinds, reason in REASONS:
        if isinstance(module, kinds):
            return reason
    return None


def _without_parameters(model: nn.Module) -> str:
    if any("quantized" in type(m).__module__ for m in model.modules()):
        return (
            "the model is quantised: its weights are packed integers, which are not "
            "trained; apply trainact to the floating-point model"
        )
    return "the model has no parameters, so there is no first layer to train"


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
        if type(module) in TRACT_CLASSES
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
    if nn.utils.parametrize.is_parametrized(module):
        return (
            " under torch.nn.utils.parametrize: apply trainact first and register the "
            "parametrization after it"
        )
    if type(module) not in TRACT_CLASSES:
        return _why_not_type(module)
    if "forward" in vars(module):
        return (
            " whose forward was replaced on the instance (as offloading hooks do): "
            "apply trainact before that"
        )
    if not cast("Tensor", module.weight).is_floating_point():
        return f" with a {module.weight.dtype} weight: TrAct needs a real floating one"
    return None


def _why_not_type(module: nn.Module) -> str:
    if isinstance(module, tuple(TRACT_CLASSES)):
        return (
            ", a subclass, which may compute something else than its parent: use a "
            "plain layer, or trainact.functional.precondition in its forward"
        )
    return ": TrAct trains Linear and Conv1d/2d/3d; name one of those with layer='...'"
