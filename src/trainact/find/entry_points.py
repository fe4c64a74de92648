"""Which modules does the raw input of a model reach first?

Three ways to tell, of which the first one that is certain counts: the model's structure
(`by_structure`); an example input that is constructed from what the model says that it
takes (`example_inputs`) and traced on shapes alone (`by_tracing`); or the user's own
example input, traced the same way.
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

from trainact.find.by_structure import Structure, further_candidates, read_structure
from trainact.find.by_tracing import Trace, follow
from trainact.find.example_inputs import IMAGE_NAMES, make_examples
from trainact.find.provenance import FirstUse

# Operators of ATen that a Linear or Conv1d/2d/3d consists of.
LINEAR_MAPS = {
    *("convolution", "addmm", "mm", "bmm", "baddbmm", "mv", "addmv"),
    # as they come in inference mode
    *("conv1d", "conv2d", "conv3d", "linear", "matmul"),
}

# Constructed inputs that are tried before giving up.
MOST_EXAMPLES = 100


@dataclass(frozen=True)
class EntryPoint:
    """A module with parameters with which the raw input is first combined.

    Attributes:
        name: qualified name of the module.
        module: the module.
        obstacle: why that is not simply the module's own linear map of the input.
    """

    name: str
    module: nn.Module
    obstacle: str | None = None


def find_entry_points(
    model: nn.Module, example_input: Any
) -> tuple[list[EntryPoint], str]:
    """The entry points in the order of execution, and the doubt if there are none."""
    structure = read_structure(model)
    if example_input is not None:
        first_uses = follow(model, example_input).first_uses
        doubt = "the example input reached no parameters; name it with layer='...'."
    elif structure is not None and structure.doubt is not None:
        first_uses = _trace_constructed(model, structure)
        doubt = f"{structure.doubt}; name it with layer='...', or pass example_input=."
    else:
        name = "" if structure is None else structure.first
        return [EntryPoint(name, model.get_submodule(name))], ""
    entries: dict[str, EntryPoint] = {}
    for use in first_uses:
        for entry in _entry_points_of(model, use):
            entries.setdefault(entry.name, entry)
    return list(entries.values()), doubt


def _trace_constructed(model: nn.Module, structure: Structure) -> list[FirstUse]:
    """Trace constructed inputs until one is conclusive; nothing if none was."""
    if any(isinstance(p, UninitializedParameter) for p in model.parameters()):
        return []
    candidates = [model.get_submodule(name) for name in structure.candidates]
    for example in itertools.islice(make_examples(model, candidates), MOST_EXAMPLES):
        try:
            with warnings.catch_warnings(action="ignore"):
                trace = follow(model, example, may_compute=False)
        except Exception:  # the model does not take this input
            continue
        if trace.first_uses and _is_conclusive(model, example, trace):
            return trace.first_uses
    return []


def _is_conclusive(model: nn.Module, example: Any, trace: Trace) -> bool:
    """Whether what a constructed input reaches is all that an input would reach.

    It is if the model itself calls that its main input, as Transformers' models do, or
    if every layer that could take an input took part: one that did not may be the first
    for another input. Of blocks in a list one stands for all. That does not hold for
    first layers in a list, since the next stem may wait for another input.
    """
    main_input = getattr(model, "main_input_name", None)
    if isinstance(example, dict) and main_input in IMAGE_NAMES:
        return main_input in example and trace.stopped_at is None
    firsts = [owner for use in trace.first_uses for owner in _owners(use.parameters)]
    used = set(_owners(trace.used))
    alike = {_without_numbers(name) for name in used.difference(firsts)}
    return all(
        name in used or _without_numbers(name) in alike
        for name in further_candidates(model, firsts)
    )


def _without_numbers(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _owners(parameters: Iterable[str]) -> dict[str, str]:
    """Names of the modules that own these parameters -> the first of each."""
    owners: dict[str, str] = {}
    for parameter in parameters:
        path = parameter.partition(".parametrizations.")[0]
        is_own = path == parameter
        owners.setdefault(path.rpartition(".")[0] if is_own else path, parameter)
    return owners


def _entry_points_of(model: nn.Module, use: FirstUse) -> list[EntryPoint]:
    """The modules that own the parameters of a first use."""
    entries: list[EntryPoint] = []
    for owner, parameter in _owners(use.parameters).items():
        obstacle = None
        if use.operator not in LINEAR_MAPS:
            obstacle = f"the input meets {parameter!r} in {use.operator!r}"
        elif use.is_gated:
            obstacle = (
                "it sees the input times features (as behind squeeze and excitation or "
                "a spatial transformer), which may or may not be meant as first"
            )
        elif owner not in use.callers:
            caller = use.callers[-1] if use.callers else ""
            obstacle = (
                f"{parameter!r} is used by {caller!r}, not in its own layer's forward, "
                "where TrAct would see it"
            )
        entries.append(EntryPoint(owner, model.get_submodule(owner), obstacle))
    return entries
