"""Why models of the zoo are exceptions, by name."""

from __future__ import annotations

import re

# (library, regular expression on the whole name) -> reason
EXPLANATIONS: dict[tuple[str, str], str] = {}


def explain(library: str, name: str) -> str | None:
    """The reason why a model is an exception, if one was found."""
    for (of, pattern), reason in EXPLANATIONS.items():
        if of == library and re.fullmatch(pattern, name):
            return reason
    return None
