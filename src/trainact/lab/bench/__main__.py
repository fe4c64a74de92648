"""``python -m trainact.lab.bench SUITE FILE [MINUTES]``: a suite without tyro.

For machines that have torch and the models' packages, and nothing to be installed on.
Everything else is `trainact bench`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from trainact.lab.bench.main import main
from trainact.lab.bench.options import BenchOptions
from trainact.lab.bench.plan import SUITES
from trainact.lab.errors import LabError

USAGE = f"usage: python -m trainact.lab.bench {'|'.join(SUITES)} FILE [MINUTES]"


def run(arguments: list[str]) -> int:
    """Run a suite.

    Args:
        arguments: its name, the file of the records, and the minutes if limited.

    Returns:
        The exit code: 0, 1 where something failed, 2 for bad input.
    """
    if len(arguments) not in (2, 3) or arguments[0] not in SUITES:
        sys.stderr.write(USAGE + "\n")
        return 2
    suite: Any = arguments[0]
    try:
        minutes = float(arguments[2]) if len(arguments) > 2 else None
        return main(BenchOptions(suite=suite, out=Path(arguments[1]), minutes=minutes))
    except ValueError as error:
        sys.stderr.write(f"{error}\n{USAGE}\n")
        return 2
    except LabError as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
