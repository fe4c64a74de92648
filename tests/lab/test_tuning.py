"""Tuned sweeps: rates are chosen on held-out images, and then fresh seeds trained."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.lab.conftest import make_record
from trainact import cli
from trainact.lab import gpu
from trainact.lab.experiment import plan
from trainact.lab.jobs import Job, key_of
from trainact.lab.recipes import STUDIES, find_recipes
from trainact.lab.recipes.optimizer_study import RATES as RECIPE_RATES
from trainact.lab.records import Record
from trainact.lab.run_options import SweepOptions
from trainact.lab.tuning import best_rate, final_accuracy, tuned_jobs
from trainact.lab.workspace import Workspace

NAME = "first-layer-small-cnn-sgd"
RATES = RECIPE_RATES["sgd"]


def planned(*methods: str) -> tuple[list[Job], list[Job]]:
    """With the seed that chooses, and with others."""
    options = SweepOptions(recipes=(NAME,), device="cpu", method=methods)
    recipes = find_recipes([NAME])
    return plan(recipes, options, (0,)), plan(recipes, options, (0, 1, 2))


def recorded(found: list[Job], best: dict[str, float]) -> list[Record]:
    """Records of runs whose accuracy falls with the distance to a best rate."""
    return [
        make_record(
            c,
            accuracy=c.epochs * (0.9 - abs(math.log2(c.lr / best[c.method])) / 20,),
            seconds=c.epochs * (0.1,),
        )
        for c in (job.config for job in found)
    ]


def chosen(found: list[Job], method: str, evaluated: str) -> set[tuple[float, int]]:
    own = [job.config for job in found if job.config.method == method]
    return {(c.lr, c.seed) for c in own if c.evaluated == evaluated}


def until_nothing_new(best: dict[str, float]) -> tuple[list[list[Job]], list[Job]]:
    rounds: list[list[Job]] = []
    records: list[Record] = []
    while (found := tuned_jobs(*planned(*best), records)) not in rounds:
        rounds.append(found)
        records = recorded(found, best)
    return rounds, rounds[-1]


def test_rates_are_chosen_on_held_out_images_by_a_seed_that_is_not_reported() -> None:
    first, second = until_nothing_new({"vanilla": 0.1, "tract": 0.4})[0]
    for method in ("vanilla", "tract"):
        for found in (first, second):
            assert chosen(found, method, "held-out") == {(lr, 0) for lr in RATES}
        assert not chosen(first, method, "test")
    assert chosen(second, "vanilla", "test") == {(0.1, 1), (0.1, 2)}
    # Its own best rate, and vanilla's.
    at_both = {(lr, seed) for lr in (0.1, 0.4) for seed in (1, 2)}
    assert chosen(second, "tract", "test") == at_both


@pytest.mark.parametrize(
    ("best", "more"),
    [(0.8, {1.6}), (1.6, {1.6, 3.2}), (0.0125, {0.025, 0.0125, 0.00625})],
)
def test_one_grid_grows_until_no_best_rate_is_at_its_edge(
    best: float, more: set[float]
) -> None:
    rounds, last = until_nothing_new({"vanilla": 0.2, "tract": best})
    assert len(rounds) == 2 + len(more)
    for method in ("vanilla", "tract"):
        tried = chosen(last, method, "held-out")
        assert tried == {(lr, 0) for lr in {*RATES, *more}}
    assert (best, 1) in chosen(last, "tract", "test")


def test_arms_that_are_added_later_have_the_same_grid() -> None:
    best = {"vanilla": 0.1, "tract": 3.2, "whitening": 0.2}
    _, last = until_nothing_new({"vanilla": 0.1, "tract": 3.2})
    found = tuned_jobs(*planned("vanilla", "whitening"), recorded(last, best))
    wide = {(lr, 0) for lr in (*RATES, 1.6, 3.2, 6.4)}
    assert chosen(found, "whitening", "held-out") == wide
    assert chosen(found, "vanilla", "held-out") == wide


def test_a_diverged_run_and_equal_ones_choose_no_edge() -> None:
    assert best_rate({0.1: 0.5, 0.2: 0.5, 0.4: 0.5, 0.8: 0.4}) == 0.2
    assert best_rate({0.1: 0.5, 0.2: 0.4, 0.4: 0.4}) == 0.1
    assert best_rate({0.1: 0.5}) == 0.1
    lost = replace(make_record(accuracy=(1.0,)), diverged=True)
    assert final_accuracy(lost) == -math.inf


def test_an_arm_that_is_far_behind_has_no_fresh_seeds() -> None:
    """Vanilla is at 0.9; TrAct is 3 points behind at its best rate, and then 3.1."""
    arms = planned("vanilla", "tract", "patchnorm")
    best = dict.fromkeys(("vanilla", "tract", "patchnorm"), 0.2)
    every = recorded(tuned_jobs(*arms, []), best)
    for lost, is_kept in ((0.03, True), (0.031, False)):
        behind = [
            replace(r, accuracy=(r.accuracy[0] - lost,))
            if r.config.method == "tract"
            else r
            for r in every
        ]
        found = tuned_jobs(*arms, behind, most_behind=0.0301)
        assert bool(chosen(found, "tract", "test")) == is_kept
        assert chosen(found, "tract", "held-out") == {(lr, 0) for lr in RATES}
        for method in ("vanilla", "patchnorm"):
            assert chosen(found, method, "test") == {(0.2, 1), (0.2, 2)}
        assert chosen(tuned_jobs(*arms, behind), "tract", "test")
    alone = planned("tract")
    assert chosen(tuned_jobs(*alone, every, most_behind=0.01), "tract", "test")


def test_other_settings_seeds_and_images_do_not_choose() -> None:
    tuning, fresh = planned("vanilla")
    every = recorded(tuned_jobs(tuning, fresh, []), {"vanilla": 0.2})
    for change in ({"epochs": 1}, {"seed": 1}, {"evaluated": "test"}):
        other = [replace(r, config=replace(r.config, **change)) for r in every]
        assert not chosen(tuned_jobs(tuning, fresh, other), "vanilla", "test")
    assert chosen(tuned_jobs(tuning, fresh, every), "vanilla", "test")


def test_a_tuned_sweep_and_again(tmp_path: Path, capsys) -> None:
    command = (
        *("sweep", "digits-small-cnn-sgd-0.2", "--method", "vanilla", "--tuned"),
        *("--seeds", "2", "--limit", "200", "--epochs", "1"),
        *("--device", "cpu", "--logger", "none", "--out", str(tmp_path)),
    )
    assert cli.main(command) == 0
    records = Workspace(tmp_path).records.read()[0]
    tried = {r.config.lr: r for r in records if r.config.evaluated == "held-out"}
    assert {r.config.seed for r in tried.values()} == {0}
    assert {(r.data["train"], r.data["test"]) for r in tried.values()} == {(180, 20)}
    best = best_rate({lr: final_accuracy(r) for lr, r in tried.items()})
    assert min(tried) < best < max(tried)
    fresh = [r for r in records if r.config.evaluated == "test"]
    assert {(r.config.lr, r.config.seed) for r in fresh} == {(best, 1), (best, 2)}
    assert {(r.data["train"], r.data["test"]) for r in fresh} == {(200, 450)}
    capsys.readouterr()
    assert cli.main(command) == 0
    count = len(records)
    assert f"{count} runs on cpu, {count} of them recorded" in capsys.readouterr().out
    assert len(Workspace(tmp_path).records.read()[0]) == count


def test_where_only_records_are_kept_only_what_is_missing_is_trained(
    tmp_path: Path,
) -> None:
    """The records also say which arms are too far behind for fresh seeds."""

    def records_of(out: Path) -> dict[str, Record]:
        command = ("sweep", "digits-small-cnn-sgd-0.2", "--tuned", "--seeds", "1")
        options = ("--method", "vanilla", "zca", "--limit", "200", "--epochs", "1")
        here = ("--device", "cpu", "--logger", "none", "--out", str(out))
        assert cli.main([*command, *options, "--most-behind", "3", *here]) == 0
        return {r.key: r for r in Workspace(out).records.read()[0]}

    whole = records_of(tmp_path / "first")
    best: dict[str, float] = {}
    for config, score in ((r.config, final_accuracy(r)) for r in whole.values()):
        if config.evaluated == "held-out":
            best[config.method] = max(score, best.get(config.method, 0))
    fresh = [r for r in whole.values() if r.config.evaluated == "test"]
    near = {method for method in best if best[method] >= best["vanilla"] - 0.03}
    assert {r.config.method for r in fresh} == near
    (tmp_path / "second").mkdir()
    kept = Workspace(tmp_path / "second").records
    lost = {fresh[-1].key, next(iter(whole))}
    for key, record in whole.items():
        if key not in lost:
            kept.append(record)
    again = records_of(tmp_path / "second")
    assert again.keys() == whole.keys()
    for key, record in again.items():
        assert (record == whole[key]) == (key not in lost)
        assert record.accuracy == whole[key].accuracy


def test_photographs_are_not_held_out(tmp_path: Path, capsys) -> None:
    command = ("sweep", "fig11-30", "--tuned", "--data", f"imagefolder:{tmp_path}")
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / name / "0.png")
    options = ("--device", "cpu", "--precision", "32", "--out", str(tmp_path / "runs"))
    assert cli.main([*command, *options]) == 2
    assert "held out" in capsys.readouterr().err


def test_the_studies_of_make_gpu_lab(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(gpu, "STUDIED", ("optimizers-digits-4-sgd",))
    asked: list[set[tuple[float, int]]] = []

    def record(missing: list[Job], size: int, console: object) -> tuple[int, bool]:
        del size, console
        asked.append({(job.config.lr, job.config.seed) for job in missing})
        best = {"vanilla": 0.1, "tract": 0.1}
        for job, made in zip(missing, recorded(missing, best), strict=True):
            Workspace(tmp_path).records.append(replace(made, key=key_of(job)))
        return 0, False

    monkeypatch.setattr(gpu, "run_side_by_side", record)
    assert gpu.run(["studies", "digits", str(tmp_path)]) == 0
    assert asked == [{(lr, 0) for lr in RATES}, {(0.1, 1), (0.1, 2), (0.1, 3)}]
    assert gpu.run(["studies", "digits", str(tmp_path)]) == 0
    assert asked[2:] == [set()]


def test_kinds_of_first_layers(tmp_path: Path) -> None:
    """All arms train, at three rates and then with fresh seeds."""
    command = ("sweep", "layers-patch-16", "--smoke", "--tuned", "--seeds", "1")
    options = ("--device", "cpu", "--logger", "none", "--out", str(tmp_path))
    assert cli.main([*command, *options]) == 0
    records = Workspace(tmp_path).records.read()[0]
    arms = {arm.name for arm in STUDIES["layers-patch-16"].arms}
    for seed in (0, 1):
        assert arms == {r.config.arm for r in records if r.config.seed == seed}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["small-cnn-adam", "small-mixer-adamw"])
def test_every_arm_of_the_study_trains(model: str, tmp_path: Path) -> None:
    name = f"first-layer-{model}-0.003"
    command = ("sweep", name, "--smoke", "--seeds", "1", "--logger", "none")
    assert cli.main([*command, "--device", "cpu", "--out", str(tmp_path)]) == 0
    records = Workspace(tmp_path).records.read()[0]
    assert len(records) == len(STUDIES[name].arms)
    assert not any(record.diverged for record in records)
    methods = {record.config.method for record in records}
    assert methods == {arm.method for arm in STUDIES[name].arms}
