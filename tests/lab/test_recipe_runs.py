"""`trainact run` and `trainact sweep` from end to end, on a few made-up images."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.lab.conftest import Outcome
from trainact import cli
from trainact.lab.cluster import submit
from trainact.lab.data.smoke import NUM_IMAGES
from trainact.lab.experiment import plan, stretch
from trainact.lab.jobs import Job, carry_out
from trainact.lab.recipes import RECIPES, find_recipes
from trainact.lab.records import Record
from trainact.lab.run_options import RunOptions, SweepOptions
from trainact.lab.workspace import Workspace

# A method of every kind for the networks of the figures; the tables' 36 networks are
# trained once with and once without TrAct.
SMOKED = [
    (name, arm)
    for name, recipe in RECIPES.items()
    for arm in recipe.arms
    if not name.startswith("table")
    or arm.method == ("tract" if name.startswith("table1") else "vanilla")
]


@pytest.fixture
def trainact(capsys: pytest.CaptureFixture[str], tmp_path: Path):  # noqa: ANN201
    """The command; runs go to a fresh folder."""

    def run(command: str, *arguments: str) -> Outcome:
        try:
            code = cli.main([command, *arguments, "--out", str(tmp_path)])
        except SystemExit as error:
            code = int(error.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


def smoke_job(name: str, out: Path, **options: object) -> list[Job]:
    values = {"smoke": True, "device": "cpu", "logger": "none", **options}
    return plan(find_recipes([name]), RunOptions(recipe=name, out=out, **values), [0])


@pytest.mark.parametrize(
    ("name", "arm"), SMOKED, ids=[f"{name} {arm.name}" for name, arm in SMOKED]
)
def test_every_recipe_trains(name: str, arm: object, tmp_path: Path) -> None:
    jobs = smoke_job(name, tmp_path)
    (job,) = (
        j for j in jobs if (j.config.method, j.config.lam) == (arm.method, arm.lam)
    )
    record = carry_out(job, lambda _: None)
    assert record is not None
    assert not record.diverged
    assert len(record.loss) == 2
    assert all(loss is not None and math.isfinite(loss) for loss in record.loss)
    assert record.recipe == name
    assert record.config.model == RECIPES[name].setting.model
    assert (record.layers != ()) == (arm.method != "vanilla")
