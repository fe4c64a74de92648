"""Points of a checklist, and how they are gone through."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """A point of the checklist.

    Attributes:
        name: what should be so.
        problems: finds what is wrong and what to do about it, in lines.
        kind: by which it can be skipped; an empty string if it cannot.
    """

    name: str
    problems: Callable[[], list[str]]
    kind: str = ""


def go_through(points: Iterable[Point], skipped: Set[str]) -> int:
    """Try all points, also after one has failed, and print what each gave.

    Args:
        points: in their order.
        skipped: kinds that are left out.

    Returns:
        How many failed.
    """
    failed = 0
    for point in points:
        if point.kind in skipped:
            print(f"skipped  {point.name}", flush=True)
            continue
        start = time.monotonic()
        problems = point.problems()
        verdict = "FAILED " if problems else "ok     "
        seconds = time.monotonic() - start
        took = f" ({seconds:.0f} s)" if seconds >= 1 else ""
        print(f"{verdict}  {point.name}{took}", flush=True)
        for line in problems:
            print(f"           {line}", flush=True)
        failed += bool(problems)
    return failed
