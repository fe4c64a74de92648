"""`trainact sweep`: a grid of jobs, side by side on this machine or on a cluster."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from rich.console import Console

from trainact.cli.exit_codes import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK
from trainact.lab.errors import LabError, check_positive, how_many
from trainact.lab.experiment import plan
from trainact.lab.initial import MissingWeightsError
from trainact.lab.jobs import Job, key_of
from trainact.lab.launch import launch, must_launch
from trainact.lab.local import finish, train_here, without_record
from trainact.lab.processes import run_side_by_side
from trainact.lab.progress import make_console
from trainact.lab.ranks import joined
from trainact.lab.recipe import Recipe
from trainact.lab.recipes import find_recipes
from trainact.lab.run_options import SweepOptions
from trainact.lab.tuning import TUNING_SEED, tuning_rounds
from trainact.lab.workspace import Workspace


def main(options: SweepOptions) -> int:
    """Train what is missing of a grid.

    Args:
        options: what the user asked for.

    Returns:
        The exit code: 0, 1 if a run failed, 130 after Ctrl-C.

    Raises:
        LabError: if it is to be both several runs and several devices for each.
    """
    if not options.recipes:
        raise LabError("RECIPES is missing: give a name that `trainact recipes` lists")
    check_positive("--seeds", options.seeds)
    check_positive("--most-behind", options.most_behind)
    check_positive("--jobs", options.jobs)
    if options.slurm and options.device == "auto":
        options = replace(options, device="cuda")
    recipes = find_recipes(options.recipes)
    if options.jobs > 1 and options.devices > 1:
        raise LabError(
            f"--jobs {options.jobs} and --devices {options.devices}: either several "
            "runs side by side or several devices for each; give one of them"
        )
    is_elsewhere = options.slurm or options.dry_run
    if not is_elsewhere and must_launch(options.devices, options.device):
        return launch(options.devices)
    with joined(options.device):
        return _sweep(recipes, options)


def _sweep(recipes: Sequence[Recipe], options: SweepOptions) -> int:
    """Train what begins with others' weights after those."""
    console = make_console()
    for number, stage in enumerate(_stages(recipes)):
        try:
            code = _train_stage(stage, options, console)
        except MissingWeightsError as error:
            if number == 0 or not (options.slurm or options.dry_run):
                raise
            names = ", ".join(recipe.name for recipe in stage)
            line = f"Not yet {names}: {error}"
            console.print(line, soft_wrap=True)
            return EXIT_OK
        if code != EXIT_OK:
            return code
    return EXIT_OK


def _stages(recipes: Sequence[Recipe]) -> list[list[Recipe]]:
    """Put recipes after those whose weights they begin with."""
    stages: list[list[Recipe]] = []
    rest = list(recipes)
    while rest:
        names = {recipe.name for recipe in rest}
        stages.append([r for r in rest if r.setting.begins_with not in names])
        rest = [r for r in rest if r.setting.begins_with in names]
    return stages


def _train_stage(
    recipes: Sequence[Recipe], options: SweepOptions, console: Console
) -> int:
    workspace = Workspace(options.out)
    workspace.prepare()
    for jobs in _rounds(recipes, options, workspace):
        code = _train_jobs(jobs, len(recipes), options, workspace, console)
        if code != EXIT_OK or options.slurm or options.dry_run:
            return code
    return EXIT_OK


def _rounds(
    recipes: Sequence[Recipe], options: SweepOptions, workspace: Workspace
) -> Iterable[list[Job]]:
    """What is to be trained, and once that is recorded what then."""
    first = TUNING_SEED + 1 if options.tuned else 0
    seeds = None if options.seeds is None else range(first, first + options.seeds)
    jobs = plan(recipes, options, seeds, elsewhere=options.slurm)
    if not options.tuned:
        return [jobs]
    tuning = plan(recipes, options, (TUNING_SEED,), elsewhere=options.slurm)
    most_behind = math.inf if options.most_behind is None else options.most_behind / 100
    return tuning_rounds(tuning, jobs, workspace, most_behind)


def _train_jobs(
    jobs: Sequence[Job],
    num_recipes: int,
    options: SweepOptions,
    workspace: Workspace,
    console: Console,
) -> int:
    missing = without_record(jobs, workspace)
    _announce(console, num_recipes, jobs, missing)
    if options.dry_run:
        _list(console, jobs, missing, workspace)
        return EXIT_OK
    if options.slurm:
        return _submit(console, missing, options)
    return _train(console, jobs, missing, options.jobs, workspace)


def _announce(
    console: Console, num_recipes: int, jobs: Sequence[Job], missing: Sequence[Job]
) -> None:
    console.print(
        f"{how_many(num_recipes, 'recipe')}, {how_many(len(jobs), 'run')} on "
        f"{jobs[0].config.device}, {len(jobs) - len(missing)} of them recorded",
        soft_wrap=True,
    )


def _list(
    console: Console,
    jobs: Sequence[Job],
    missing: Sequence[Job],
    workspace: Workspace,
) -> None:
    waiting = set(missing)
    for job in jobs:
        state = "recorded"
        if job in waiting:
            begun = workspace.checkpoint(key_of(job)).exists()
            state = "begun" if begun else "missing"
        line = f"{state:<9} {job.recipe}: {job.config.title}"
        console.print(line, soft_wrap=True)


def _train(
    console: Console,
    jobs: Sequence[Job],
    missing: Sequence[Job],
    num_processes: int,
    workspace: Workspace,
) -> int:
    failed = 0
    if num_processes == 1:
        interrupted = train_here(missing, console)
    else:
        failed, interrupted = run_side_by_side(missing, num_processes, console)
    finish(console, workspace, jobs, interrupted=interrupted)
    if interrupted:
        return EXIT_INTERRUPTED
    return EXIT_FAILED if failed else EXIT_OK


def _submit(console: Console, missing: Sequence[Job], options: SweepOptions) -> int:
    from trainact.lab.cluster import submit

    names = [str(job.job_id) for job in submit(missing, options)]
    console.print(
        f"{how_many(len(names), 'job')} submitted ({', '.join(names)}); their output "
        f"is in {options.out / 'slurm'}. The same command with --dry-run shows how "
        "far they are.",
        soft_wrap=True,
    )
    return EXIT_OK
