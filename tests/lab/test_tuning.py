"""Tuned sweeps: seed 0 at every learning rate, other seeds at each arm's best."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.lab.conftest import make_record
from trainact import cli
from trainact.lab import gpu
from trainact.lab.experiment import plan
from trainact.lab.jobs import Job, key_of
from trainact.lab.recipes import STUDIES, find_recipes
from trainact.lab.recipes.optimizer_study import RATES as RECIPE_RATES
from trainact.lab.records import Record
from trainact.lab.run_options import SweepOptions
from trainact.lab.tuning import tuned_jobs, tuning_jobs
from trainact.lab.workspace import Workspace

NAME = "first-layer-small-cnn-sgd"
RATES = RECIPE_RATES["sgd"]


def jobs(*methods: str) -> list[Job]:
    options = SweepOptions(recipes=(NAME,), device="cpu", method=methods)
    return plan(find_recipes([NAME]), options)


def recorded(accuracies: dict[tuple[str, float], float | None]) -> list[Record]:
    """Records of seed 0 by method and learning rate; None for a lost run."""
    configs = {(j.config.method, j.config.lr): j.config for j in tuning_jobs(jobs())}
    return [
        make_record(configs[run], accuracy=(0.9, accuracy))
        if accuracy is not None
        else replace(make_record(configs[run], accuracy=(1.0,)), diverged=True)
        for run, accuracy in accuracies.items()
    ]


def chosen(found: list[Job], method: str) -> set[tuple[float, int]]:
    own = [job.config for job in found if job.config.method == method]
    return {(config.lr, config.seed) for config in own}


FIRST = {(lr, 0) for lr in RATES}


def test_first_all_rates_with_one_seed() -> None:
    both = jobs("vanilla", "tract")
    assert {job.config.seed for job in both} == {0, 1, 2}
    for found in (tuning_jobs(both), tuned_jobs(both, [])):
        assert chosen(found, "vanilla") == chosen(found, "tract") == FIRST


def test_then_more_seeds_at_the_best_rate_of_each_arm() -> None:
    records = recorded(
        {
            **{("vanilla", lr): 0.5 + lr for lr in RATES},
            ("tract", 0.05): 0.6,
            ("tract", 0.1): 0.6,
            ("tract", 0.2): None,
            ("tract", 0.4): 0.1,
            ("tract", 0.8): 0.1,
        }
    )
    found = tuned_jobs(jobs("vanilla", "tract"), records)
    assert chosen(found, "vanilla") == FIRST | {(0.8, 1), (0.8, 2)}
    # The first of equals; a lost run is the worst, whatever it reached before.
    assert chosen(found, "tract") == FIRST | {(0.05, 1), (0.05, 2)}


def test_an_arm_is_tuned_once_all_its_rates_are_recorded() -> None:
    records = recorded({("vanilla", 0.05): 0.5, ("vanilla", 0.1): 0.6})
    assert chosen(tuned_jobs(jobs("vanilla"), records), "vanilla") == FIRST


def test_other_settings_and_seeds_do_not_tune() -> None:
    records = recorded({("vanilla", lr): 0.5 + lr for lr in RATES})
    shorter = [replace(r, config=replace(r.config, epochs=1)) for r in records]
    other = [replace(r, config=replace(r.config, seed=1)) for r in records]
    found = tuned_jobs(jobs("vanilla"), [*shorter, *other])
    assert chosen(found, "vanilla") == FIRST


def test_a_tuned_sweep_and_again(tmp_path: Path, capsys) -> None:
    command = (
        *("sweep", NAME, "--smoke", "--tuned", "--seeds", "2", "--method", "vanilla"),
        *("--device", "cpu", "--logger", "none", "--out", str(tmp_path)),
    )
    assert cli.main(command) == 0
    records = Workspace(tmp_path).records.read()[0]
    runs = {(r.config.lr, r.config.seed): r.accuracy[-1] for r in records}
    best = max(RATES, key=lambda lr: runs[lr, 0])
    assert set(runs) == FIRST | {(best, 1)}
    capsys.readouterr()
    assert cli.main(command) == 0
    count = len(RATES) + 1
    assert f"{count} runs on cpu, {count} of them recorded" in capsys.readouterr().out
    assert len(Workspace(tmp_path).records.read()[0]) == count


def test_the_studies_of_make_gpu_lab(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(gpu, "STUDIED", ("optimizers-digits-4-sgd",))
    monkeypatch.setattr(gpu, "STUDY_SEEDS", (0, 1))
    asked: list[set[tuple[float, int]]] = []

    def record(missing: list[Job], size: int, console: object) -> tuple[int, bool]:
        del size, console
        asked.append({(job.config.lr, job.config.seed) for job in missing})
        for job in missing:
            made = make_record(job.config, accuracy=(job.config.lr,))
            Workspace(tmp_path).records.append(replace(made, key=key_of(job)))
        return 0, False

    monkeypatch.setattr(gpu, "run_side_by_side", record)
    assert gpu.run(["studies", "digits", str(tmp_path)]) == 0
    assert asked == [FIRST, {(0.8, 1)}]
    assert gpu.run(["studies", "digits", str(tmp_path)]) == 0
    assert asked[2:] == [set(), set()]


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
