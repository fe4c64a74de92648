"""Take the README's picture of a report in a real browser: headless Chromium.

python -m benchmarks.screenshots
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.readme import RECIPE_RUNS, ROOT
from trainact import cli

PICTURE = ROOT / "docs" / "report.png"
WIDTH, HEIGHT = 1200, 1330  # of the window, pixels


def photograph(page: Path, picture: Path) -> None:
    """Open a page and save what is seen of it.

    Args:
        page: an HTML file.
        picture: PNG to be written.
    """
    browser = shutil.which("chromium")
    if browser is None:
        sys.exit("chromium is not installed: it takes the picture")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    window = f"--window-size={WIDTH},{HEIGHT}"
    command = [browser, *options, window, f"--screenshot={picture}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = [str(path) for path in RECIPE_RUNS if path.stem.startswith("fig11")]
        if cli.main(["report", *runs, "--out", folder]):
            sys.exit("the report failed")
        photograph(Path(folder) / "report.html", PICTURE)


if __name__ == "__main__":
    main()
