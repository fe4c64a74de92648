"""Records of a benchmark, a line of JSON each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write_records(records: Iterable[Mapping[str, Any]], out: Path | None) -> None:
    """Write records to a file, whose folder is made, or to standard output."""
    text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
    if out is None:
        print(text, end="")
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
