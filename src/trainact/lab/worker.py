"""A process that carries out the job which a file or standard input describes.

    python -m trainact.lab.worker < job.json
    torchrun --nproc-per-node 8 -m trainact.lab.worker job.json

It ends with 0 when the job is recorded or another process is at it, with 2 and one line
on standard error when the user can put something right, and leaves a checkpoint.
"""

from __future__ import annotations

import sys
from pathlib import Path

from trainact.cli.exit_codes import EXIT_BAD_INPUT, EXIT_OK
from trainact.lab.errors import LabError
from trainact.lab.jobs import Job, carry_out
from trainact.lab.ranks import joined


def main() -> int:
    """Carry out one job.

    Returns:
        The exit code.
    """
    try:
        job = Job.from_json(_read())
        with joined(job.place.device):
            carry_out(job, lambda _: None)
    except LabError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_BAD_INPUT
    return EXIT_OK


def _read() -> str:
    if len(sys.argv) < 2:
        return sys.stdin.read()
    return Path(sys.argv[1]).read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
