"""From recipes and options to jobs, with every value checked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from trainact.lab.config import Setting
from trainact.lab.devices import resolve_device
from trainact.lab.environment import hide_home
from trainact.lab.errors import LabError, check_positive, check_seed
from trainact.lab.experiment_options import ExperimentOptions
from trainact.lab.initial import find_initial
from trainact.lab.jobs import Job, Place
from trainact.lab.methods import find_method
from trainact.lab.methods.tract import DEFAULT_LAM
from trainact.lab.recipe import Arm, Recipe
from trainact.lab.shorten import smoke, stretch
from trainact.lab.weights import hash_weights

_POSITIVE = (
    "epochs",
    "batch_size",
    "lr",
    "limit",
    "image_size",
    "devices",
    "micro_batch",
)


def plan(
    recipes: Iterable[Recipe],
    options: ExperimentOptions,
    seeds: Sequence[int] | None = None,
    *,
    elsewhere: bool = False,
) -> list[Job]:
    """List the runs: recipes, in each the seeds, in each the arms side by side.

    So what is interrupted holds whole seeds. A run that several recipes share is listed
    once, under the first of them.

    Args:
        recipes: to be trained.
        options: what the user asked for.
        seeds: instead of each recipe's own.
        elsewhere: whether the device is not this machine's, such as a cluster's.

    Returns:
        The jobs.
    """
    check_options(options, seeds or ())
    kind = _kind(options, elsewhere=elsewhere)
    place = Place(
        out=str(options.out),
        data_dir=str(options.data_dir),
        device=options.device,
        pipeline=options.pipeline,
        logger=options.logger,
        project=options.wandb_project,
        checkpoint_seconds=options.checkpoint_seconds,
        micro_batch=options.micro_batch,
        workers=options.workers,
        corrupt=options.corrupt,
    )
    jobs: dict[object, Job] = {}
    for recipe in recipes:
        changed = replace(recipe, setting=adapt(recipe.setting, options))
        for seed in recipe.seeds if seeds is None else seeds:
            for arm in choose_arms(recipe, options):
                job = _job(changed, arm, seed, kind, place, options)
                jobs.setdefault(job.config, job)
    return list(jobs.values())


def _job(
    recipe: Recipe,
    arm: Arm,
    seed: int,
    kind: str,
    place: Place,
    options: ExperimentOptions,
) -> Job:
    config = recipe.config(arm, seed, kind)
    weights = find_initial(recipe, arm, seed, options)
    if weights is not None:
        config = replace(config, initial=hash_weights(weights))
    return Job(
        config,
        recipe.name,
        place,
        weights=None if weights is None else str(weights),
        keep_weights=recipe.keep_weights or options.keep_weights,
    )


def _kind(options: ExperimentOptions, *, elsewhere: bool) -> str:
    if elsewhere:
        return options.device.partition(":")[0]
    return resolve_device(options.device, options.precision or "32").type


def check_options(options: ExperimentOptions, seeds: Sequence[int]) -> None:
    """Refuse numbers that make no sense.

    Args:
        options: what the user asked for.
        seeds: likewise.

    Raises:
        LabError: if a number is out of its range.
    """
    for name in _POSITIVE:
        check_positive(f"--{name.replace('_', '-')}", getattr(options, name))
    if options.workers is not None and options.workers < 0:
        raise LabError(
            f"--workers {options.workers}: give a number of processes, or 0 to read "
            "images in the process that trains"
        )
    seconds = options.checkpoint_seconds
    if not (math.isfinite(seconds) and seconds >= 0):
        raise LabError(
            f"--checkpoint-seconds {seconds}: give a number of seconds, or 0 to keep a "
            "checkpoint after every step"
        )
    for lam in options.lam:
        check_positive("--lam", lam)
    for seed in seeds:
        check_seed("--seed", seed)


def adapt(setting: Setting, options: ExperimentOptions) -> Setting:
    """Change what the user wants changed.

    Args:
        setting: of a recipe.
        options: what the user asked for.

    Returns:
        The setting to train.
    """
    if options.smoke:
        setting = smoke(setting)
    if options.epochs is not None:
        setting = stretch(setting, options.epochs)
    given = {
        "data": None if options.data is None else hide_home(options.data),
        "batch_size": options.batch_size,
        "lr": options.lr,
        "limit": options.limit,
        "image_size": options.image_size,
        "precision": options.precision,
        "channels_last": options.channels_last or None,
        "compile": options.compile or None,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    return replace(setting, **changes)


def choose_arms(recipe: Recipe, options: ExperimentOptions) -> list[Arm]:
    """List the arms to train: the recipe's, fewer, or others.

    Args:
        recipe: whose arms they are by default.
        options: what the user asked for.

    Returns:
        The arms, none twice.
    """
    if not options.method and not options.lam:
        return list(recipe.arms)
    own = dict.fromkeys(arm.method for arm in recipe.arms)
    arms: list[Arm] = []
    for name in options.method or own:
        method = find_method(name)
        usual = [arm.lam for arm in recipe.arms if arm.method == method.name]
        lams = (options.lam or usual or [DEFAULT_LAM]) if method.uses_lam else [None]
        arms += [Arm(method.name, lam) for lam in lams]
    return list(dict.fromkeys(arms))
