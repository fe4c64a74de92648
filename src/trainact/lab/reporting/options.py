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
    """Folders, which are searched for records.jsonl with all that is in them, or files
    of such lines."""

    out: Path | None = None
    """Folder for report.html, report.json and the PNGs; by default the folder report
    in the first of RUNS."""

    json: bool = False
    """Print what stands in report.json; what else there is to say goes to standard
    error."""
