"""A process that carries out the job which standard input describes.

    python -m trainact.lab.worker < job.json

It ends with 0 when the job is recorded or another process is at it, with 2 and one line
on standard error when the user can put something right, and leaves a checkpoint.
"""

from __future__ import annotations

import sys

from trainact.lab.errors import LabError
from trainact.lab.jobs import Job, carry_out

EXIT_OK = 0
EXIT_BAD_INPUT = 2


def main() -> int:
    """Carry out one job.

    Returns:
        The exit code.
    """
    try:
        carry_out(Job.from_json(sys.stdin.read()), lambda _: None)
    except LabError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_BAD_INPUT
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
