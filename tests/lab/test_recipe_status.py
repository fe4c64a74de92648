"""The docs' table of recipes: what ran, at what length, with what gain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.lab.conftest import make_record
from trainact.lab.config import setting_hash
from trainact.lab.recipe_status import choices_section, recipes_section
from trainact.lab.recipes import RECIPES
from trainact.lab.records import Record

from .test_recipes import ALL

PAGE = Path(__file__).parents[2] / "docs" / "reproduction.md"


def record_of(
    name: str, arm: int = 0, seed: int = 0, method: str | None = None, **changes: Any
) -> tuple[str, Record]:
    """A record of a recipe, with changes to its setting."""
    recipe = RECIPES[name]
    config = replace(recipe.config(recipe.arms[arm], seed, "cpu"), **changes)
    if method is not None:
        config = replace(config, method=method, lam=None)
    record = make_record(config, recipe=name, recipe_hash=setting_hash(config.setting))
    return "records/some.jsonl", record


def lines_about(paper: str, *records: tuple[str, Record]) -> list[str]:
    lines = recipes_section(records)
    return [line for line in lines if line.startswith(f"| {paper} |")]


def test_without_records_every_artefact_is_a_row() -> None:
    lines = recipes_section([])
    assert len(lines) == 2 + 15
    assert lines[2] == ("| Figure 3 | `fig3-*` (8) | built, not run |  |  |  |  |")
    assert "| Figure 5, Table 2 | `fig5-*` (3) |" in lines[4]
    assert "| `fig6` |" in lines[5]


def test_run_in_full() -> None:
    recipe = RECIPES["fig6"]
    records = [record_of("fig6", arm, s) for arm in range(10) for s in recipe.seeds]
    (line,) = lines_about("Figure 6", *records)
    assert "| `fig6` | run in full | vanilla: 5 seeds, tract λ=0.00625: 5" in line
    assert line.endswith("| `records/some.jsonl` |")
    (line,) = lines_about("Figure 6", *records[:-1])
    assert "| run at full length, 49 of 50 runs |" in line


def test_run_in_part() -> None:
    records = [record_of("fig3-sgd-100", arm, 1) for arm in (0, 2)]
    full, rest = lines_about("Figure 3", *records)
    assert "| `fig3-sgd-100` | run at full length, 2 of 20 runs |" in full
    assert "| vanilla: 1 seed, tract λ=0.1: 1 seed |" in full
    assert "| the other 7 of `fig3-*` | built, not run" in rest


def test_run_at_reduced_length_says_what_differs() -> None:
    short = record_of("fig4-100", epochs=5, warmup_epochs=0, limit=10000)
    full = record_of("fig4-100", seed=1)
    reduced, whole, _ = lines_about("Figure 4", short, full)
    assert "| run at reduced length: 5 of 100 epochs, 10,000 images |" in reduced
    assert "| run at full length, 1 of 20 runs |" in whole
    again = record_of("fig4-100", data="imagefolder:x", precision="bf16-mixed")
    changed, _ = lines_about("Figure 4", again)
    assert "| run with data imagefolder:x, precision bf16-mixed |" in changed


def test_milestones_count_as_a_change_only_of_themselves() -> None:
    one = record_of("table1-vgg11", epochs=20, milestones=(6, 12, 16))
    assert "reduced length: 20 of 200 epochs |" in lines_about("Tables 1 and 6", one)[0]
    other = record_of("table1-vgg11", milestones=(1,))
    assert "run with milestones (1,) |" in lines_about("Tables 1 and 6", other)[0]


def test_gains_are_of_pairs_of_seeds_beside_the_paper_s() -> None:
    def run(arm: int, seed: int, accuracy: float) -> tuple[str, Record]:
        path, record = record_of("table1-vgg11", arm, seed)
        return path, replace(record, accuracy=(0.1, accuracy))

    vanilla = [run(0, seed, 0.5) for seed in (0, 1)]
    trained = [run(1, 0, 0.52), run(1, 1, 0.53), run(1, 2, 0.9)]
    first, rest = lines_about("Tables 1 and 6", *vanilla, *trained)
    # Table 1: 69.66 % with TrAct, 68.44 % without.
    assert "| +2.50 | +1.22 |" in first
    others = [r for n, r in RECIPES.items() if n.startswith("table1-")]
    gains = [
        arms[1].expected.top1 - arms[0].expected.top1
        for arms in (recipe.arms for recipe in others)
        if arms[0].expected.top1 != 68.44
    ]
    assert f"|  | {sum(gains) / 35:+.2f} |  |" in rest
    (alone, _) = lines_about("Tables 1 and 6", *trained)
    assert "|  | +1.22 |" in alone


def test_a_shared_run_counts_for_each_recipe() -> None:
    """A sweep trains what recipes share once, under the name of the first."""
    record = record_of("fig4-200")
    for paper in ("Figure 4", "Figure 6", "Figure 7"):
        assert "run at full length, 1 of" in lines_about(paper, record)[0]
    assert "built, not run" in lines_about("Figure 8", record)[0]


def test_other_methods_and_earlier_versions_do_not_count() -> None:
    whitening = record_of("fig6", method="whitening")
    (line,) = lines_about("Figure 6", whitening)
    assert "| run with other methods | whitening: 1 seed |" in line
    path, record = record_of("fig6")
    (line,) = lines_about("Figure 6", (path, replace(record, recipe_hash="other")))
    assert "| run with an earlier version |" in line


def test_records_without_a_recipe_are_nobodys() -> None:
    assert recipes_section([("records/some.jsonl", make_record())]) == recipes_section(
        []
    )


def test_the_docs_list_every_choice() -> None:
    text = PAGE.read_text(encoding="utf-8")
    begin, end = "<!-- choices: begin -->\n", "\n<!-- choices: end -->"
    assert text.partition(begin)[2].partition(end)[0] == "\n".join(choices_section())
    for recipe in ALL:
        for sentence in (*recipe.unverified, *recipe.deviations):
            assert text.count(sentence) == 1
    assert "<!-- recipes: begin -->\n| paper | recipe | status |" in text
