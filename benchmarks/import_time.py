"""What trainact adds to `import torch`: what a script that calls `apply` loads.

python -m benchmarks.import_time [--rounds N] [--out FILE]

`import trainact` alone loads nothing: a module is loaded when a name of it is used.
Every round starts a new process for each case, in random order: it imports torch, then
what the case adds. Two kinds of time: by the clock, which other work on the machine
prolongs, and of the processor alone. Bytecode is there, as after an installation.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.output import write_records
from trainact.lab.environment import describe

# `compiler` is what an early import of torch.compile's machinery would cost.
CASES = {
    "trainact": "import trainact; trainact.apply",
    "nothing": "pass",
    "compiler": "import torch._dynamo",
}
ROUNDS = 15
PROGRAM = """
import json, time
marks = []
def mark():
    marks.append((time.perf_counter(), time.process_time()))
mark()
import torch
mark()
{statement}
mark()
spans = [[b - a for a, b in zip(*pair)] for pair in zip(marks, marks[1:])]
print(json.dumps(spans))
"""


def measure(rounds: int, seed: int = 0) -> dict[str, list[list[list[float]]]]:
    """Start the processes.

    Args:
        rounds: of every case.
        seed: of the order within a round.

    Returns:
        For each case and round, of torch and of what is added: seconds by the clock
        and of the processor.
    """
    order = random.Random(seed)
    spans: dict[str, list[list[list[float]]]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as bytecode:
        for number in range(rounds + 1):
            for name in order.sample(list(CASES), k=len(CASES)):
                times = start(CASES[name], bytecode)
                if number:  # the first round compiles
                    spans[name].append(times)
    return spans


def start(statement: str, bytecode: str) -> list[list[float]]:
    """Import in a new process.

    Args:
        statement: after torch.
        bytecode: folder that keeps it.

    Returns:
        As a round of `measure`.
    """
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(statement=statement)],
        env={**kept, "PYTHONPYCACHEPREFIX": bytecode},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Smallest, quartiles and largest, in milliseconds.

    Args:
        seconds: of each round; at least two.

    Returns:
        The five numbers.
    """
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    numbers = [min(seconds), low, middle, high, max(seconds)]
    names = ("min", "p25", "p50", "p75", "max")
    return {k: round(1e3 * v, 3) for k, v in zip(names, numbers, strict=True)}


def record(name: str, rounds: list[list[list[float]]]) -> dict[str, Any]:
    """Summarise a case.

    Args:
        name: of the case.
        rounds: as of `measure`.

    Returns:
        Fields of its record.
    """
    fields: dict[str, Any] = {"case": name, "statement": CASES[name]}
    for part, what in enumerate(("torch", "added")):
        for clock, kind in enumerate(("wall_ms", "cpu_ms")):
            seconds = [spans[part][clock] for spans in rounds]
            fields[f"{what}_{kind}"] = summary(seconds)
    return {**fields, "rounds": len(rounds)}


def main() -> None:
    """Measure and write the records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    origin = describe(torch.device("cpu"))
    spans = measure(options.rounds)
    records = [record(name, rounds) | origin for name, rounds in spans.items()]
    write_records(records, options.out)


if __name__ == "__main__":
    main()
