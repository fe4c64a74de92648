"""What `trainact report` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional


@dataclass(frozen=True)
class ReportOptions:
    """Write one HTML page about finished runs, beside the paper's numbers.

    Nothing is trained. The page needs no other file and no network; its pictures and
    its numbers are also written beside it, as PNGs and report.json.
    """

    runs: Positional[tuple[Path, ...]]
    """Folders, searched for records.jsonl with all that is in them, or .jsonl files."""

    out: Path | None = None
    """Folder for report.html, report.json and the PNGs; by default the folder report
    in the first of RUNS."""
