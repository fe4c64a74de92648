"""The page of `trainact report`: complete, self-contained, and opened in a browser.

Building it takes about five seconds and each start of the browser about three.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.lab.conftest import CONFIG, make_record
from tests.lab.made_up import (
    TRACT,
    VANILLA,
    by_name,
    expected,
    make_recipe,
    make_runs,
    read_json,
    write_runs,
)
from trainact.lab.errors import LabError
from trainact.lab.recipe import Arm, Recipe
from trainact.lab.records import Record
from trainact.lab.reporting.cells import amount, probability, signed, times
from trainact.lab.reporting.main import main
from trainact.lab.reporting.options import ReportOptions

ARMS = (VANILLA, Arm("tract", 0.05), TRACT, Arm("tract", 0.2))
EVIL = "<script>alert('x')</script>"
RECIPES = by_name(
    make_recipe("fig3-sgd-12", *ARMS, artefact="Figure 3", epochs=12),
    make_recipe("fig3-sgd-24", *ARMS, artefact="Figure 3", epochs=24),
    *(
        make_recipe(
            f"table1-{model}",
            Arm("vanilla", expected=expected(60.0 + gain, 90.0)),
            Arm("tract", 0.1, expected=expected(61.0, 91.0)),
            artefact="Tables 1 and 6",
            model=model,
        )
        for model, gain in (("one", 0.1), ("two", 0.4))
    ),
)
NUM_PICTURES = 1 + 2 * 4 + 2 * 2 + 1


def all_runs() -> list[Record]:
    runs: list[Record] = []
    for number, recipe in enumerate(RECIPES.values()):
        epochs = recipe.setting.epochs
        for place, arm in enumerate(recipe.arms):
            best = 0.6 + 0.013 * place + 0.02 * number
            finals = [best + 0.003 * (seed * (place + 1) % 4) for seed in range(3)]
            top5 = tuple(0.8 + 0.001 * e * (1 + number) for e in range(epochs))
            runs += make_runs(recipe, arm, finals, top5=top5)
    runs[-1] = replace(runs[-1], diverged=True, diverged_step=77, command=EVIL)
    return [*runs, make_record(CONFIG)]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_runs(tmp_path_factory.mktemp("report") / "runs", all_runs())
    with (folder / "records.jsonl").open("a", encoding="utf-8") as file:
        file.write(f'{{"schema": "{EVIL}"}}\n')
    assert main(ReportOptions((folder,)), lambda: RECIPES) == 0
    return folder / "report"


@pytest.fixture(scope="module")
def html(out: Path) -> str:
    return (out / "report.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """What a page loads, links to and says."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.cells: list[str] = []
        self._in_cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._in_cell = tag == "td"
        if self._in_cell:
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag != "td"

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.cells[-1] += data

    def values(self, name: str) -> list[str]:
        return [attrs[name] for _, attrs in self.tags if name in attrs]


def test_the_page_needs_nothing_else(html: str) -> None:
    page = Page(html)
    assert len(page.values("src")) == NUM_PICTURES
    assert all(src.startswith("data:image/png;base64,") for src in page.values("src"))
    assert all(href.startswith(("#", "data:")) for href in page.values("href"))
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "iframe", "object", "embed", "base", "source"}
    styles = re.findall(r"<style>(.*?)</style>", html, flags=re.DOTALL)
    assert len(styles) == 1
    assert not re.search(r"url\(|@import|https?:", styles[0])
    assert not page.values("srcset")


def test_every_link_leads_somewhere(html: str) -> None:
    page = Page(html)
    links = [href[1:] for href in page.values("href") if href.startswith("#")]
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert len(links) > len(RECIPES)
    assert set(links) <= set(ids)


def test_what_records_say_is_text(html: str) -> None:
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;") >= 2


def test_the_page_says_where_numbers_come_from(html: str) -> None:
    for text in (
        "Something unverified.",
        "Something that deviates.",
        "What the paper says of fig3-sgd-24.",
        "0123456789abcdef",
        "abacus, 2 threads, resident data",
        "trainact run fig3-sgd-12 --seed 2",
        "100 training images, 20 test images, 3 x 32 x 32, 10 classes",
        "seed 2: the loss stopped being finite in epoch 4, step 77.",
        "the recipe&#39;s: 0, 1, 2, 3, 4",
        "fc1 (tract λ=0.05, tract λ=0.1, tract λ=0.2)",
        "mlp on digits: sgd lr 0.1, cosine, batch 64, 3 epochs",
    ):
        assert text in html, text


def numbers_in(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from numbers_in(item)
    elif isinstance(value, int | float):
        yield value


def test_report_json_holds_every_number_of_the_tables(out: Path, html: str) -> None:
    known: set[str] = {"-", ""}
    for number in numbers_in(read_json(out)):
        known |= {str(number), f"{number:.2f}", f"± {number:.2f}", signed(number)}
        known |= {amount(number), times(number), probability(number)}
    cells = Page(html).cells
    parts = {
        part for cell in cells for part in re.split(r" to | \(1 lost\)", cell.strip())
    }
    assert len(parts) > 50
    assert parts <= known


def test_the_pictures_lie_beside_the_page(out: Path, html: str) -> None:
    inline = {
        base64.b64decode(src.partition(",")[2]) for src in Page(html).values("src")
    }
    files = {path.read_bytes() for path in out.glob("*.png")}
    assert files == inline
    assert len(files) == NUM_PICTURES
    for png in files:
        with Image.open(io.BytesIO(png)) as image:
            assert min(image.size) > 400


def test_the_same_runs_give_the_same_page(tmp_path: Path) -> None:
    runs = make_runs(make_recipe("fig0"), VANILLA, (0.6,))
    folder = write_runs(tmp_path, runs)
    pages: list[bytes] = []
    for _ in range(2):
        main(ReportOptions((folder,), tmp_path / "out"), dict[str, Recipe])
        pages.append((tmp_path / "out" / "report.html").read_bytes())
    assert pages[0] == pages[1]


def test_warnings_reach_the_console(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_runs(tmp_path, make_runs(make_recipe("fig0"), VANILLA, (0.6,)))
    with (folder / "records.jsonl").open("a", encoding="utf-8") as file:
        file.write("[bold]nonsense\n" * 25)
    main(ReportOptions((folder / "records.jsonl",)), dict[str, Recipe])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 22
    assert "line 2 ignored" in lines[0]
    assert lines[20] == "warning: … and 5 more, in report.json"
    assert lines[21].startswith(f"1 run, 1 experiment: {folder / 'report'}")
    assert len(read_json(folder / "report")["warnings"]) == 25


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    folder = write_runs(tmp_path, make_runs(make_recipe("fig0"), VANILLA, (0.6,)))
    (tmp_path / "taken").write_text("")
    with pytest.raises(LabError, match="give another folder with --out"):
        main(ReportOptions((folder,), tmp_path / "taken"), dict[str, Recipe])


def browse(tmp_path: Path, page: Path, width: int, *options: str) -> str:
    """Open a page in Chromium and return what it prints."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = (shutil.which(name) for name in names)
    program = os.environ.get("CHROME") or next(filter(None, found), None)
    if program is None:
        pytest.skip("no Chromium: install one or name it in CHROME")
    command = [
        program,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--virtual-time-budget=10000",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},1000",
        *options,
        page.as_uri(),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


# Part of a copy of the page only: the page itself has no script.
PROBE = """<script>addEventListener("load", () => {
  const seen = {
    pictures: [...document.images].map(image => image.naturalWidth),
    rows: document.querySelectorAll("tbody tr").length,
    tables: document.querySelectorAll("table").length,
    overflow: document.documentElement.scrollWidth - innerWidth,
    back: getComputedStyle(document.body).backgroundColor,
    loaded: performance.getEntriesByType("resource")
      .filter(entry => !entry.name.startsWith("data:")).length,
  };
  document.body.dataset.seen = JSON.stringify(seen);
})</script>"""


@pytest.mark.parametrize(
    ("width", "scheme", "back"),
    [(600, 0, "rgb(23, 23, 23)"), (1280, 1, "rgb(255, 255, 255)")],
    ids=["narrow-dark", "wide-light"],
)
def test_a_browser_shows_it(
    html: str, tmp_path: Path, width: int, scheme: int, back: str
) -> None:
    copy = tmp_path / "probe.html"
    copy.write_text(html.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    colours = f"--blink-settings=preferredColorScheme={scheme}"
    dom = browse(tmp_path, copy, width, colours, "--dump-dom")
    (seen,) = re.findall(r'data-seen="([^"]*)"', dom)
    found = json.loads(seen.replace("&quot;", '"'))
    assert len(found["pictures"]) == NUM_PICTURES
    assert min(found["pictures"]) > 400, "a picture is broken"
    assert found["tables"] == html.count("<table>")
    assert found["rows"] > 30
    assert found["overflow"] <= 0, "the page is wider than the window"
    assert found["loaded"] == 0
    assert found["back"] == back
    assert "Where the numbers come from" in dom


def test_a_screenshot_is_not_blank(out: Path, tmp_path: Path) -> None:
    screenshot = tmp_path / "page.png"
    browse(tmp_path, out / "report.html", 1280, f"--screenshot={screenshot}")
    with Image.open(screenshot) as image:
        colours = image.convert("RGB").getcolors(maxcolors=1 << 24)
    assert colours is not None
    assert len(colours) > 50
    most, colour = max(colours)
    total = sum(count for count, _ in colours)
    assert colour == (255, 255, 255)
    assert 0.5 < most / total < 0.99
