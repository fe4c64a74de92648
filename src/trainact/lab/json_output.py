"""JSON for scripts: alone on standard output, null in place of what is not finite."""

from __future__ import annotations

import codecs
import contextlib
import json
import math
import re
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, cast


def json_text(values: Any, indent: int = 2) -> str:
    """Write plain values as JSON that every reader takes.

    Args:
        values: what `json.dumps` takes; numbers need not be finite.
        indent: of nested values.

    Returns:
        The text, with a line break at its end.
    """
    finite = _finite(values)
    return json.dumps(finite, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(values: Any) -> Any:
    if isinstance(values, float):
        return values if math.isfinite(values) else None
    if isinstance(values, Mapping):
        items = cast("Mapping[str, Any]", values).items()
        return {key: _finite(value) for key, value in items}
    if isinstance(values, list | tuple):
        return [*map(_finite, cast("Sequence[Any]", values))]
    return values


@contextlib.contextmanager
def json_alone(is_wanted: bool) -> Generator[Callable[[str], None]]:
    """Keep standard output for JSON: what else is written there goes to standard error.

    Args:
        is_wanted: whether JSON is; without it nothing is changed.

    Yields:
        Takes the text, which is written when the block has ended well; without JSON it
        is dropped.
    """
    texts: list[str] = []
    if not is_wanted:
        yield texts.append
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield texts.append
    sys.stdout.write(_encodable("".join(texts)))


def _encodable(text: str) -> str:
    """Escape what is in no encoding but Unicode's; it stands in strings only."""
    if codecs.lookup(sys.stdout.encoding or "ascii").name == "utf-8":
        return text
    return re.sub(r"[^\x00-\x7f]+", lambda found: json.dumps(found[0])[1:-1], text)
