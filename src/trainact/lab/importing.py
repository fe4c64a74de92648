"""Objects of the user's own, named as PACKAGE.MODULE:NAME."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from trainact.lab.errors import LabError, first_line


def import_object(kind: str, reference: str, hint: str = "") -> Any:
    """Import what a user names, also from the working directory.

    Args:
        kind: of the object, for messages.
        reference: ``PACKAGE.MODULE:NAME``.
        hint: follows the message where there is no such module.

    Returns:
        The object.

    Raises:
        LabError: if there is no such module, or nothing of that name in it.
    """
    module, _, name = reference.partition(":")
    if not all(map(str.isidentifier, [*module.split("."), name])):
        raise LabError(f"{kind} {reference!r}: write PACKAGE.MODULE:NAME")
    # As `python -m` does; it stays, for what the object imports when it is used.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise LabError(
            f"{kind} {reference}: there is no module {error.name!r}{hint}"
        ) from error
    except AttributeError as error:
        raise LabError(f"{kind} {reference}: {first_line(error)}") from error
