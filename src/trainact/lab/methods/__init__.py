"""Methods by name; a new one is one file and one entry here, or a reference to it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torch import nn
from torch.optim import Optimizer

from trainact.lab.errors import LabError, did_you_mean
from trainact.lab.importing import call_own, hash_own, import_object
from trainact.lab.methods.apart import (
    TRACT_ROW_ADAM,
    TRACT_SGD,
    VANILLA_MUON,
    VANILLA_ROW_ADAM,
    VANILLA_SGD,
    VANILLA_SOAP,
)
from trainact.lab.methods.base import Method, MethodSettings
from trainact.lab.methods.dual_patchnorm import DUAL_PATCHNORM
from trainact.lab.methods.extensions import EXTENSIONS
from trainact.lab.methods.joint import TRACT_JOINT
from trainact.lab.methods.kfac import KFAC
from trainact.lab.methods.patchnorm import PATCHNORM
from trainact.lab.methods.scaled import TRACT_SCALED
from trainact.lab.methods.tract import TRACT
from trainact.lab.methods.vanilla import VANILLA
from trainact.lab.methods.whitening import WHITENING, WHITENING_TRACT
from trainact.lab.methods.zca import ZCA
from trainact.lab.records import Record

__all__ = [
    "METHODS",
    "Method",
    "MethodSettings",
    "code_of",
    "find_method",
    "is_current",
]

_ALL = (
    VANILLA,
    TRACT,
    TRACT_SGD,
    PATCHNORM,
    DUAL_PATCHNORM,
    WHITENING,
    TRACT_ROW_ADAM,
    VANILLA_SGD,
    VANILLA_ROW_ADAM,
    VANILLA_MUON,
    VANILLA_SOAP,
    WHITENING_TRACT,
    ZCA,
    KFAC,
    *EXTENSIONS,
    TRACT_JOINT,
    TRACT_SCALED,
)
METHODS = {method.name: method for method in _ALL}
_code: dict[str, str | None] = {}


def find_method(name: str) -> Method:
    """Look a method up, or import one of the user's own.

    Args:
        name: as on the command line; ``PACKAGE.MODULE:NAME`` is imported, also from the
            working directory.

    Returns:
        The method; its name is the given one, under which it is found again.

    Raises:
        LabError: if there is none of that name.
    """
    if name in METHODS:
        return METHODS[name]
    if ":" not in name:
        raise LabError(
            f"method {name!r} is not known{did_you_mean(name, METHODS)}: give one of "
            f"{', '.join(METHODS)}, or PACKAGE.MODULE:NAME"
        )
    method = import_object("method", name)
    if not isinstance(method, Method):
        raise LabError(
            f"method {name} is of type {type(method).__name__}, not a "
            "trainact.lab.methods.Method"
        )
    _code.setdefault(name, hash_own(name))  # of what was imported, whatever comes
    what = f"method {name}"
    return replace(
        method,
        name=name,
        convert=partial(call_own, what, method.convert, kind=nn.Module),
        optimizer=partial(call_own, what, method.optimizer, kind=Optimizer),
    )


def code_of(name: str) -> str | None:
    """Tell the code of a method of the user's own from that before it was edited.

    Args:
        name: as `find_method` takes it.

    Returns:
        Its hash; None for a method of trainact or of another library.
    """
    if name in METHODS:
        return None
    find_method(name)
    return _code[name]


def is_current(record: Record) -> bool:
    """Whether a run was trained by the code that its method has now.

    Args:
        record: of the run.

    Returns:
        True, too, where this process knows no other code.
    """
    name = record.config.method
    return name not in _code or record.versions.get(name) == _code[name]
