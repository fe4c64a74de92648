"""Methods by name; a new one is one file and one entry here."""

from __future__ import annotations

from trainact.lab.errors import LabError, did_you_mean
from trainact.lab.methods.base import Method, MethodSettings
from trainact.lab.methods.tract import TRACT
from trainact.lab.methods.vanilla import VANILLA

__all__ = ["METHODS", "Method", "MethodSettings", "find_method"]

METHODS = {method.name: method for method in (VANILLA, TRACT)}


def find_method(name: str) -> Method:
    """Look a method up.

    Args:
        name: as on the command line.

    Returns:
        The method.

    Raises:
        LabError: if there is none of that name.
    """
    if name not in METHODS:
        raise LabError(
            f"method {name!r} is not known{did_you_mean(name, METHODS)}: give one of "
            f"{', '.join(METHODS)}"
        )
    return METHODS[name]
