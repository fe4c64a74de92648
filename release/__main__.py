"""Go through the release checklist; exits with 1 if a point of it fails.

python -m release [--skip-check] [--skip-environments] [--python 3.11 3.12 3.13]

Each point is ok, skipped or FAILED, with what to do. The built files are left in
``dist/``. Nothing is tagged or uploaded: the steps that remain are printed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from release.checklist import points, remaining_steps
from release.reporting import go_through

ROOT = Path(__file__).parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m release",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--skip-check", action="store_true", help="no tests")
    parser.add_argument(
        "--skip-environments", action="store_true", help="no fresh environments"
    )
    parser.add_argument(
        "--python",
        nargs="+",
        metavar="VERSION",
        help="try these only, the oldest first; by default all of the metadata",
    )
    options = parser.parse_args()
    skipped = {"check"} if options.skip_check else set[str]()
    if options.skip_environments:
        skipped.add("environments")
    failed = go_through(points(ROOT, options.python), skipped)
    if failed:
        print(f"\n{failed} failed: not ready")
        return 1
    print(remaining_steps(ROOT, complete=not skipped))
    return 0


if __name__ == "__main__":
    sys.exit(main())
