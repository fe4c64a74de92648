"""`trainact run` and `trainact sweep` from end to end, on a few made-up images."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lab import forked
from tests.lab.conftest import Outcome
from trainact import cli
from trainact.lab import gpu
from trainact.lab.cluster import Work, submit
from trainact.lab.config import Setting
from trainact.lab.data.photographs import is_photographic
from trainact.lab.data.smoke import NUM_IMAGES
from trainact.lab.experiment import adapt, choose_arms, plan
from trainact.lab.jobs import Job, carry_out
from trainact.lab.models import cifar
from trainact.lab.recipe import Arm
from trainact.lab.recipes import RECIPES, find_recipes
from trainact.lab.records import Record
from trainact.lab.run_options import RunOptions, SweepOptions
from trainact.lab.shorten import stretch
from trainact.lab.workspace import Workspace

Command = Callable[..., Outcome]


# Each of these is trained a step, with TrAct, in test_cifar_models_*.py.
TESTED = tuple(f"cifar:{name}" for name in cifar.names())


def way(setting: Setting) -> tuple[Any, ...]:
    """How a recipe trains: all of it but the network and what is a mere number."""
    kinds: list[Any] = []
    for name, value in setting.identity().items():
        is_word = isinstance(value, str) and name not in ("model", "begins_with")
        kinds.append((name, value if is_word else bool(value)))
    return tuple(kinds)


def choose_smoked() -> list[tuple[str, Arm]]:
    """Every way of training once, every network, and every method on either images."""
    chosen: dict[Any, tuple[str, Arm]] = {}
    for name, recipe in RECIPES.items():
        setting = recipe.setting
        for arm in reversed(recipe.arms):  # TrAct's, of two
            photographs = is_photographic(setting.augment)
            chosen.setdefault((arm.method, setting.task, photographs), (name, arm))
        chosen.setdefault(way(setting), (name, recipe.arms[-1]))
        if setting.model not in TESTED:
            chosen.setdefault(setting.model, (name, recipe.arms[-1]))
    return list(dict.fromkeys(chosen.values()))


# Photographs are small ones but for one recipe of every network.
FULL_SIZE = ("fig5-30", "fig11-30", "table3-vit-s-400", "table3-vit-b-400")
SMOKED = choose_smoked()
LARGE = ("fig5", "fig12", "table3", "table4", "table5")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """The command; runs go to a fresh folder."""

    def call(*arguments: str) -> Outcome:
        try:
            code = cli.main([*arguments, "--out", str(tmp_path)])
        except SystemExit as error:
            code = int(error.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


def smoke_jobs(name: str, out: Path, **changes: Any) -> list[Job]:
    options = RunOptions(
        **{"recipe": name, "out": out, "smoke": True, "logger": "none", **changes}
    )
    return plan(find_recipes([name]), options, [0])


def num_classes(name: str) -> int:
    """Of what a recipe is smoked on."""
    known = {"cifar100": 100, "imagenet": 1000, "flowers102": 102, "stanford-cars": 196}
    return {**known, "voc2007": 20}.get(RECIPES[name].setting.data, 10)


@pytest.mark.parametrize(
    ("name", "arm"),
    [
        pytest.param(
            *(name, arm),
            id=f"{name} {arm.name}",
            marks=pytest.mark.slow if name.startswith(LARGE) else (),
        )
        for name, arm in SMOKED
    ],
)
def test_every_way_trains(
    name: str, arm: Arm, tmp_path: Path, real_photographs: str | None
) -> None:
    """Photographs are real ones for TrAct, where they are at hand."""
    setting, classes = RECIPES[name].setting, num_classes(name)
    changes: dict[str, Any] = {}
    if is_photographic(setting.augment) and arm.method == "tract" and real_photographs:
        changes, classes = {"data": real_photographs}, 2
        # Few CPUs compute in bfloat16; of small images the recipe's precision is tried.
        small, full = {"image_size": 64}, {"precision": "32"}
        changes |= full if name in FULL_SIZE else small
    lams = () if arm.lam is None else (arm.lam,)
    jobs = smoke_jobs(name, tmp_path, method=(arm.method,), lam=lams, **changes)
    (job,) = [job for job in jobs if job.config.arm == arm.name]
    record = carry_out(job, lambda _: None)
    assert record is not None
    assert len(record.loss) == 2
    assert all(loss is not None and math.isfinite(loss) for loss in record.loss)
    assert record.recipe == name
    assert record.config.model == RECIPES[name].setting.model
    assert bool(record.layers) == (arm.method != "vanilla")
    assert (record.top5 is not None) == (classes > 5 and setting.task != "detection")
    assert len(record.data["classes"]) == classes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fig11-30", "table3-vit-s-400", "table5"])
def test_two_processes_share_the_batches_of_a_recipe(
    name: str, tmp_path: Path, real_photographs: str | None
) -> None:
    is_vit = name.startswith("table3")
    changes: dict[str, Any] = {"precision": "32", "batch_size": 4 if is_vit else 2}
    if name != "table5":
        changes["image_size"] = 64
    if real_photographs is not None and name != "table5":
        changes["data"] = real_photographs
    found: list[Record] = []
    for num_ranks in (1, 2) if is_vit else (2,):
        out = tmp_path / str(num_ranks)
        jobs = smoke_jobs(name, out, method=("tract",), lam=(0.1,), **changes)
        log = tmp_path / "errors"
        codes = forked.finish(forked.start(jobs[0].to_json(), num_ranks, log))
        assert codes == num_ranks * [0], log.read_text()
        found += Workspace(out).records.read()[0]
    assert found[-1].num_devices == 2
    assert all(loss is not None and math.isfinite(loss) for loss in found[-1].loss)
    assert len(found[-1].layers) == 1
    assert found[0].loss == pytest.approx(found[-1].loss, rel=1e-5)


def test_a_relative_lam_and_micro_batches(tmp_path: Path) -> None:
    """Two images a step, as a whole and one by one."""
    losses = []
    for micro_batch in (None, 1):
        changes = {"method": ("tract-relative",), "lam": (0.1,)}
        out = tmp_path / str(micro_batch)
        jobs = smoke_jobs("damping-0-255", out, micro_batch=micro_batch, **changes)
        record = carry_out(jobs[0], lambda _: None)
        assert record is not None
        assert record.micro_batches == (1 if micro_batch is None else 2)
        losses.append(record.loss)
    # Batch norm sees one image or two.
    assert losses[0] == pytest.approx(losses[1], rel=0.5)


def test_every_way_method_and_network_is_smoked() -> None:
    smoked = {way(RECIPES[name].setting) for name, _ in SMOKED}
    assert {way(recipe.setting) for recipe in RECIPES.values()} == smoked
    assert {arm.method for _, arm in SMOKED} == {
        arm.method for recipe in RECIPES.values() for arm in recipe.arms
    }
    assert {recipe.setting.model for recipe in RECIPES.values()} == {
        RECIPES[name].setting.model for name, _ in SMOKED
    } | set(TESTED)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_planned(name: str) -> None:
    """Also those that differ in numbers alone from one that is smoked."""
    jobs = smoke_jobs(name, Path("out"))
    assert {job.recipe for job in jobs} == {name}
    assert [job.config.arm for job in jobs] == [arm.name for arm in RECIPES[name].arms]
    assert [Job.from_json(job.to_json()) for job in jobs] == jobs


def test_smoke_keeps_what_makes_the_recipe() -> None:
    (job,) = smoke_jobs("fig4-100", Path("out"), method=("tract",), lam=(0.2,))
    config, setting = job.config, RECIPES["fig4-100"].setting
    for name in ("model", "augment", "normalise", "optimizer", "lr", "schedule"):
        assert getattr(config, name) == getattr(setting, name)
    assert (config.epochs, config.batch_size) == (2, NUM_IMAGES // 2)
    assert config.data == "smoke:10"


def test_run_trains_all_arms_and_seeds_and_then_nothing(
    command: Command, tmp_path: Path
) -> None:
    arguments = ("run", "fig3-sgd-100", "--smoke", "--device", "cpu", "--lam", "0.1")
    outcome = command(*arguments, "--seed", "0", "1", "--checkpoint-seconds", "0")
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    assert "\x1b" not in outcome.out
    assert "[4/4] cifar:resnet18-maxpool, tract λ=0.1, seed 1" in outcome.out
    assert "4 of 4 runs in" in outcome.out
    workspace = Workspace(tmp_path)
    records, _ = workspace.records.read()
    assert [(r.config.seed, r.config.arm) for r in records] == [
        (seed, arm) for seed in (0, 1) for arm in ("vanilla", "tract λ=0.1")
    ]
    epochs, _ = workspace.epochs.read()
    assert [(e.key, e.epoch) for e in epochs] == [
        (record.key, epoch) for record in records for epoch in (1, 2)
    ]
    assert all(e.recipe == "fig3-sgd-100" and e.recipe_hash for e in epochs)
    assert len(list(workspace.logs.glob("*/events.out.tfevents.*"))) == 4
    assert list((tmp_path / "checkpoints").glob("*.ckpt")) == []
    again = command(*arguments, "--seed", "0", "1")
    assert "4 of them recorded" in again.out
    assert "[1/" not in again.out
    assert workspace.records.read()[0] == records


@pytest.mark.slow
def test_sweep_trains_side_by_side_what_is_missing(
    command: Command, tmp_path: Path
) -> None:
    arguments = ("sweep", "fig7-100", "--smoke", "--seeds", "1", "--device", "cpu")
    methods = ("--method", "vanilla", "patchnorm", "dual-patchnorm", "whitening")
    logger = ("--logger", "none")
    assert command("run", "fig7-100", "--smoke", *methods[:2], *logger).code == 0
    outcome = command(*arguments, *methods, *logger, "--dry-run")
    assert outcome.out.count("recorded  fig7-100") == 1
    assert outcome.out.count("missing   fig7-100") == 3
    outcome = command(*arguments, *methods, *logger, "--jobs", "2")
    assert outcome.code == 0, outcome.out
    assert "[3/3]" in outcome.out
    records, warnings = Workspace(tmp_path).records.read()
    assert warnings == []
    assert {r.config.method for r in records if r.config.seed == 0} == set(methods[1:])


@pytest.mark.slow
def test_a_run_that_fails_takes_no_other_with_it(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "broken_method.py"
    module.write_text(
        "import os\n"
        "from trainact.lab.methods.base import Method\n"
        "def convert(model, settings):\n"
        "    os._exit(7)\n"
        "METHOD = Method('broken_method:METHOD', uses_lam=False, convert=convert)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.syspath_prepend(tmp_path)
    outcome = command(
        *("sweep", "fig3-sgd-100", "--smoke", "--seeds", "1", "--jobs", "2"),
        *("--method", "broken_method:METHOD", "vanilla", "--logger", "none"),
    )
    assert outcome.code == 1
    assert "ended with exit code 7" in outcome.out
    assert "1 of 2 runs in" in outcome.out


@pytest.mark.slow
def test_a_cluster_carries_jobs_out(tmp_path: Path) -> None:
    """Through submitit's executor for one machine, which pickles as SLURM's does."""
    jobs = smoke_jobs("fig3-sgd-100", tmp_path, method=("vanilla",))
    options = SweepOptions(recipes=("fig3-sgd-100",), out=tmp_path)
    (submitted,) = submit(jobs, options, cluster="local")
    record = Workspace(tmp_path).find(submitted.result())
    assert record is not None
    assert record.config == jobs[0].config
    again = Work(jobs[0].to_json()).checkpoint()
    assert again.function.text == jobs[0].to_json()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "fig33"), "did you mean 'fig3'"),
        (("run", "fig3"), "stands for 8 recipes"),
        (("run", "fig6", "--seed", "-1"), "--seed -1: a seed lies between"),
        (("run", "fig6", "--epochs", "0"), "--epochs 0: give a finite number above 0"),
        (("run", "fig6", "--lam", "-0.1"), "--lam -0.1"),
        (("run", "fig6", "--workers", "-1"), "--workers -1: give a number"),
        (("run", "fig6", "--method", "trakt"), "did you mean 'tract'"),
        (("run", "fig6", "--data", "imagefolder:/nowhere"), "does not exist"),
        (("run", "fig6", "--smoke", "--data", "digits"), "images of 3 x 32 x 32"),
        (("run", "fig3-sgd-100", "--smoke", "--logger", "wandb"), "pip install wandb"),
        (("sweep", "fig6", "--seeds", "0"), "--seeds 0"),
        (("sweep", "fig6", "--jobs", "0"), "--jobs 0"),
        (("sweep", "fig6", "--most-behind", "0"), "--most-behind 0"),
        (("sweep", "fig6", "--smoke", "--slurm"), "leave --slurm out"),
    ],
)
def test_bad_input(
    command: Command,
    arguments: tuple[str, ...],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")  # no machine has SLURM here
    outcome = command(*arguments)
    assert outcome.code == 2, outcome.out
    assert outcome.err.count("\n") == 1, outcome.err
    assert says in outcome.err


def test_what_the_user_changes_reaches_the_setting() -> None:
    options = RunOptions(
        recipe="fig3-sgd-100",
        data="digits",
        batch_size=64,
        lr=0.5,
        limit=100,
        image_size=8,
        precision="bf16-mixed",
        channels_last=True,
        compile=True,
    )
    setting = RECIPES["fig3-sgd-100"].setting
    changed = adapt(setting, options)
    for name in ("data", "batch_size", "lr", "limit", "image_size", "precision"):
        assert getattr(changed, name) == getattr(options, name)
    assert changed.channels_last
    assert changed.compile
    assert adapt(setting, RunOptions(recipe="fig3-sgd-100")) == setting


def test_arms_that_the_user_chooses() -> None:
    def names(recipe: str, **changes: Any) -> list[str]:
        options = RunOptions(recipe=recipe, **changes)
        return [arm.name for arm in choose_arms(RECIPES[recipe], options)]

    recipe = RECIPES["fig3-sgd-100"]
    assert names("fig3-sgd-100") == [arm.name for arm in recipe.arms]
    assert names("fig3-sgd-100", method=("tract",)) == names("fig3-sgd-100")[1:]
    assert names("fig3-sgd-100", lam=(0.3,)) == ["vanilla", "tract λ=0.3"]
    others = names("fig3-sgd-100", method=("whitening", "tract+sgd"))
    assert others == ["whitening", "tract+sgd λ=0.1"]


def test_jobs_for_a_cluster_are_planned_without_its_device() -> None:
    options = SweepOptions(recipes=("fig6",), device="cuda")
    jobs = plan(find_recipes(["fig6"]), options, [0], elsewhere=True)
    assert {job.config.device for job in jobs} == {"cuda"}
    assert Job.from_json(jobs[0].to_json()) == jobs[0]


def test_another_length_keeps_the_shares() -> None:
    setting = stretch(RECIPES["table1-vgg16"].setting, 20)
    assert setting.epochs == 20
    assert setting.milestones == (6, 12, 16)
    assert setting.warmup_epochs == 0
    assert stretch(setting, 20) == setting


def test_a_shared_run_is_planned_once() -> None:
    options = SweepOptions(recipes=("fig4-200", "fig6"))
    recipes = find_recipes(options.recipes)
    jobs = plan(recipes, options, [0])
    assert len(jobs) == len(set(jobs)) == len({job.config for job in jobs})
    arms = {arm.name for recipe in recipes for arm in recipe.arms}
    assert {job.config.arm for job in jobs} == arms
    assert sum(job.config.method == "vanilla" for job in jobs) == 1


@pytest.mark.slow
def test_the_runs_of_make_gpu_lab_need_nothing_that_may_be_missing() -> None:
    code = (
        "import sys\n"
        "for name in ('tyro', 'submitit', 'wandb', 'webdataset'):\n"
        "    sys.modules[name] = None\n"
        "from trainact.lab.gpu import run\n"
        "sys.exit(run([]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr == f"{gpu.USAGE}\n"
    assert {run.recipe for run in gpu.RUNS.values()} <= set(RECIPES)
    assert find_recipes(gpu.STUDIED)
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    assert "-m trainact.lab.gpu $$run $(or $(DATA),cifar10)" in makefile
