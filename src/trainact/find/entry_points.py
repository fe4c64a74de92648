"""Which modules does the raw input of a model reach first?

Three ways to tell, of which the first one that is certain counts: what the model is
made of (`by_structure`); an input made from what the model says that it takes
(`example_inputs`), followed on shapes alone (`by_tracing`); or the user's own example
input, followed the same way.
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from trainact.find.by_structure import Structure, read_structure, suspects_beside
from trainact.find.by_tracing import Trace, follow
from trainact.find.example_inputs import IMAGE_NAMES, make_examples
from trainact.find.provenance import Meeting

# Operators of ATen that a Linear or Conv1d/2d/3d consists of.
LINEAR_MAPS = {
    *("convolution", "addmm", "mm", "bmm", "baddbmm", "mv", "addmv"),
    # as they come in inference mode
    *("conv1d", "conv2d", "conv3d", "linear", "matmul"),
}

# Inputs that are made up and tried before giving up.
MOST_EXAMPLES = 100


@dataclass(frozen=True)
class EntryPoint:
    """A module whose parameters the raw input meets first.

    Attributes:
        name: its qualified name.
        module: itself.
        obstacle: why that is not simply its own linear map of the input.
    """

    name: str
    module: nn.Module
    obstacle: str | None = None


def find_entry_points(
    model: nn.Module, example_input: Any
) -> tuple[list[EntryPoint], str]:
    """Find the modules whose parameters the raw input meets first, of whatever type.

    Args:
        model: any module with parameters.
        example_input: what its forward takes, or None.

    Returns:
        The modules in the order of execution, and what is in doubt if there are none.
    """
    structure = read_structure(model)
    if example_input is not None:
        meetings = follow(model, example_input).meetings
        doubt = "the example input reached no parameters; name it with layer='...'."
    elif structure is not None and structure.doubt is not None:
        meetings = _follow_made_up(model, structure)
        doubt = f"{structure.doubt}; name it with layer='...', or pass example_input=."
    else:
        name = "" if structure is None else structure.first
        return [EntryPoint(name, model.get_submodule(name))], ""
    entries = [a for meeting in meetings for a in _at(model, meeting)]
    return list({a.name: a for a in reversed(entries)}.values())[::-1], doubt


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


def _at(model: nn.Module, meeting: Meeting) -> list[EntryPoint]:
    """The modules that own the parameters of a meeting."""
    entries: list[EntryPoint] = []
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
        entries.append(EntryPoint(owner, model.get_submodule(owner), obstacle))
    return entries
