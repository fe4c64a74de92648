"""Which runs belong together, under which name, and what is read at all."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tyro

from tests.lab.conftest import CONFIG, make_record
from tests.lab.made_up import (
    DATA,
    LAMS,
    TRACT,
    VANILLA,
    by_name,
    make_recipe,
    make_runs,
    only_view,
    write_runs,
)
from trainact.lab.errors import LabError
from trainact.lab.recipe import Arm
from trainact.lab.reporting.colours import choose_colours, of_lam
from trainact.lab.reporting.figures import section_pictures
from trainact.lab.reporting.grouping import group, views
from trainact.lab.reporting.options import ReportOptions
from trainact.lab.reporting.reading import read_runs
from trainact.lab.reporting.sections import (
    UNKNOWN_RECIPE,
    WITHOUT_RECIPE,
    build_sections,
)
from trainact.lab.reporting.study import as_json, build_study

RECIPE = make_recipe("fig0")
SWEEP = make_recipe("fig6", VANILLA, *(Arm("tract", lam) for lam in LAMS))
NORMS = make_recipe("fig7-4", VANILLA, TRACT, Arm("patchnorm"), artefact="Figure 7")


def test_an_experiment_is_one_setting_on_one_data_set() -> None:
    other = replace(RECIPE, setting=replace(RECIPE.setting, lr=0.2))
    records = [
        *make_runs(RECIPE, VANILLA, (0.6, 0.7)),
        *make_runs(RECIPE, TRACT, (0.6,)),
        *make_runs(other, VANILLA, (0.6,)),
        *make_runs(RECIPE, VANILLA, (0.6,), data={**DATA, "hash": "other"}),
    ]
    sizes = [len(experiment.records) for experiment in group(records)]
    assert sizes == [3, 1, 1]
    titles = [section.title for section in build_sections(records, by_name(RECIPE))]
    assert titles == [
        "fig0 (images abcdef)",
        "fig0 (images other)",
        "fig0 in another setting",
    ]


def test_recipes_that_share_a_setting_share_runs_each_with_its_own_arms() -> None:
    records = [
        *make_runs(SWEEP, Arm("tract", 1.6), (0.6,)),
        *make_runs(SWEEP, TRACT, (0.6,)),
        *make_runs(SWEEP, VANILLA, (0.6,)),
        *make_runs(SWEEP, Arm("tract", 0.3), (0.6,)),  # no recipe has this one
    ]
    (experiment,) = group(records)
    found = {v.name: v for v in views(experiment, by_name(SWEEP, NORMS))}
    assert [r.config.arm for r in found["fig6"].records] == [
        "vanilla",
        "tract λ=0.1",
        "tract λ=1.6",
        "tract λ=0.3",
    ]
    assert [r.config.arm for r in found["fig7-4"].records] == [
        "vanilla",
        "tract λ=0.1",
        "tract λ=0.3",
    ]
    assert found["fig7-4"].missing == ("patchnorm",)
    assert all(view.is_own for view in found.values())


def test_a_recipe_without_a_run_is_not_shown() -> None:
    records = make_runs(SWEEP, Arm("tract", 1.6), (0.6,))
    sections = build_sections(records, by_name(SWEEP, NORMS))
    assert [section.title for section in sections] == ["fig6"]


def test_a_run_at_reduced_length_names_what_differs() -> None:
    setting = replace(RECIPE.setting, epochs=2, data="imagefolder:x", limit=50)
    records = make_runs(replace(RECIPE, setting=setting), VANILLA, (0.6,))
    view = only_view(records, RECIPE)
    assert not view.is_own
    assert [str(change) for change in view.changes] == [
        "data imagefolder:x instead of cifar10",
        "epochs 2 instead of 4",
        "limit 50 instead of none",
    ]
    (section,) = build_sections(records, by_name(RECIPE))
    assert section.title == "fig0 at reduced length"


def test_titles_that_occur_twice_say_in_what_they_differ() -> None:
    records = [
        run
        for epochs in (2, 3)
        for run in make_runs(
            replace(RECIPE, setting=replace(RECIPE.setting, epochs=epochs)),
            VANILLA,
            (0.6,),
        )
    ]
    sections = build_sections(records, by_name(RECIPE))
    assert [section.title for section in sections] == [
        "fig0 at reduced length (epochs 2)",
        "fig0 at reduced length (epochs 3)",
    ]
    assert len({section.slug for section in sections}) == 2


def test_runs_of_no_recipe_and_of_an_unknown_one_are_shown_last() -> None:
    strange = make_recipe("../fig99", lr=0.3)
    records = [
        make_record(CONFIG),
        *make_runs(strange, VANILLA, (0.6,)),
        *make_runs(RECIPE, VANILLA, (0.6,)),
    ]
    study = build_study(records, [], by_name(RECIPE))
    assert [(c.title, c.sections[0].title) for c in study.chapters] == [
        ("Figure 0", "fig0"),
        (UNKNOWN_RECIPE, "../fig99"),
        (
            WITHOUT_RECIPE,
            "mlp on digits: sgd lr 0.1, cosine, batch 64, 3 epochs",
        ),
    ]
    slugs = [section.slug for section in study.sections]
    assert all(
        set(slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for slug in slugs
    )


def test_without_a_recipe_the_baseline_comes_first_and_lambda_ascends() -> None:
    arms = [Arm("tract", 0.2), Arm("tract", 0.1), Arm("patchnorm"), VANILLA]
    records = [run for arm in arms for run in make_runs(RECIPE, arm, (0.6,), name=None)]
    (section,) = build_sections(records, {})
    assert [arm.label for arm in section.arms] == [
        "vanilla",
        "patchnorm",
        "tract λ=0.1",
        "tract λ=0.2",
    ]


def test_pictures_are_drawn_of_what_there_is() -> None:
    def names(recipe, arms, **changes) -> list[str]:
        runs = [run for a in arms for run in make_runs(recipe, a, (0.6,), **changes)]
        (section,) = build_sections(runs, by_name(recipe))
        colours = choose_colours(section.arms)
        return [picture.name for picture in section_pictures(section, colours)]

    assert names(SWEEP, SWEEP.arms[:3]) == ["fig6-top1.png"]
    assert names(SWEEP, SWEEP.arms[1:4]) == ["fig6-top1.png", "fig6-lam.png"]
    long = make_recipe("fig1", epochs=10)
    assert names(long, (VANILLA,), top5=(0.9,) * 10) == [
        "fig1-top1.png",
        "fig1-top1-end.png",
        "fig1-top5-end.png",
    ]


def test_colours_are_the_same_everywhere() -> None:
    runs = [run for arm in SWEEP.arms for run in make_runs(SWEEP, arm, (0.6,))]
    (section,) = build_sections(runs, by_name(SWEEP))
    colours = choose_colours(section.arms)
    assert colours["tract λ=0.1"] == of_lam(0.1)
    assert len(set(colours.values())) == len(LAMS) + 1
    red, green, blue = (colours["vanilla"][i : i + 2] for i in (1, 3, 5))
    assert red == green == blue
    assert of_lam(1e-9) == of_lam(0.00625)


def test_of_runs_with_the_same_key_the_first_counts(tmp_path: Path) -> None:
    (first,) = make_runs(RECIPE, VANILLA, (0.6,))
    (again,) = make_runs(RECIPE, VANILLA, (0.7,))
    a, b = write_runs(tmp_path / "a", [first]), write_runs(tmp_path / "b", [again])
    assert read_runs([a, b]) == ([first], [])
    assert read_runs([b, a]) == ([again], [])
    assert read_runs([tmp_path, a / "records.jsonl"]) == ([first], [])


def test_lines_that_are_no_runs_are_warned_about(tmp_path: Path) -> None:
    good, short, odd, empty = make_runs(RECIPE, VANILLA, (0.6, 0.6, 0.6, 0.6))
    path = write_runs(
        tmp_path / "runs",
        [
            good,
            replace(short, accuracy=(0.5,), loss=(1.0,), seconds=(1.0,)),
            replace(odd, seconds=(1.0,)),
            replace(empty, accuracy=(), loss=(None,), seconds=(), diverged=True),
        ],
    )
    nan = good.to_line().replace("0.57", "NaN").replace(good.key, "feed")
    with (path / "records.jsonl").open("a", encoding="utf-8") as file:
        file.write(nan + '{"schema": 2, "key"')
    records, warnings = read_runs([path])
    assert records == [good]
    name = path / "records.jsonl"
    assert warnings[:4] == [
        f"{name} line 2 ignored: it ends after 1 of 4 epochs",
        f"{name} line 3 ignored: its series differ in length",
        f"{name} line 4 ignored: 0 values for 4 epochs",
        f"{name} line 5 ignored: a value is not a finite number",
    ]
    assert warnings[4].startswith(f"{name} line 6 ignored: ")


WRONG = ("x", "", None, 1.5, -1, 0, 10**6, True, [1], ["x"], [], {"a": 1}, math.nan)


def places(values: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Every value in a record, as the dictionary that holds it and its name there."""
    for name, value in values.items():
        yield values, name
        if isinstance(value, dict):
            yield from places(value)


def test_whatever_a_hand_has_left_in_a_line_a_report_is_made(tmp_path: Path) -> None:
    edited, good = make_runs(RECIPE, VANILLA, (0.6, 0.7))
    lines = write_runs(tmp_path, [edited, good]) / "records.jsonl"
    values = json.loads(edited.to_line())
    ignored = 0
    for holder, name in list(places(values)):
        kept = holder[name]
        for wrong in WRONG:
            holder[name] = wrong
            lines.write_text(f"{json.dumps(values)}\n{good.to_line()}")
            records, warnings = read_runs([tmp_path])
            assert good in records
            assert len(records) + len(warnings) == 2
            assert as_json(build_study(records, warnings, by_name(RECIPE)))
            ignored += len(warnings)
        holder[name] = kept
    assert ignored > 300


def test_a_path_without_runs_is_one_line_for_the_user(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="does not exist"):
        read_runs([tmp_path / "nowhere"])
    with pytest.raises(LabError, match=r"holds no records\.jsonl"):
        read_runs([tmp_path])
    (tmp_path / "records.jsonl").write_text("")
    with pytest.raises(LabError, match="no finished run in") as caught:
        read_runs([tmp_path])
    assert "first of" not in str(caught.value)
    (tmp_path / "records.jsonl").write_text("{}\nnonsense\n")
    with pytest.raises(
        LabError, match=r"no finished run in .*the first of 2: "
    ) as caught:
        read_runs([tmp_path])
    assert "\n" not in str(caught.value)


def test_options_take_any_number_of_paths() -> None:
    options = tyro.cli(ReportOptions, args=["a", "b/c.jsonl", "--out", "d"])
    assert options == ReportOptions((Path("a"), Path("b/c.jsonl")), Path("d"))
    with pytest.raises(LabError, match="RUNS is missing"):
        read_runs(tyro.cli(ReportOptions, args=[]).runs)
