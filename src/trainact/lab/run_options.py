"""What `trainact run` and `trainact sweep` can be told; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tyro.conf import Positional

from trainact.lab.experiment_options import ExperimentOptions


@dataclass(frozen=True, kw_only=True)
class RunOptions(ExperimentOptions):
    """Train a recipe: all of its methods and seeds, one after the other.

    The same command again trains what is missing, and goes on with a run that was
    stopped from its last checkpoint. `trainact recipes` lists the recipes.
    """

    recipe: Positional[str]
    """Name of the recipe, such as fig3-sgd-100."""

    seed: tuple[int, ...] = ()
    """Train these seeds only, or others than the recipe's."""


@dataclass(frozen=True, kw_only=True)
class SweepOptions(ExperimentOptions):
    """Train many recipes as a grid of jobs, side by side or on a cluster.

    The same command again trains what is missing, and goes on with runs that were
    stopped from their last checkpoints.
    """

    groups: ClassVar[dict[str, tuple[str, ...]]] = {
        **ExperimentOptions.groups,
        "cluster": (
            *("slurm", "slurm_partition", "slurm_nodes", "slurm_account"),
            *("slurm_hours", "slurm_parallel"),
        ),
    }
    """Headings of the help."""

    recipes: Positional[tuple[str, ...]]
    """Names of recipes, or what they begin with: fig3, table1, fig4-100."""

    seeds: int | None = None
    """How many seeds, counted from 0, with --tuned from 1; by default the recipe's."""

    tuned: bool = False
    """Choose each arm's learning rate with seed 0 on a tenth of the training images,
    held out, at the recipes' rates and at twice and half as much until the best lies
    between others; then train the other seeds on all of them, at the arm's best rate
    and at vanilla's. With --slurm: give the command again when its runs are done."""

    most_behind: float | None = None
    """With --tuned: leave out the other seeds of an arm that is more points than this
    behind vanilla training on the held-out images, each at its best rate."""

    jobs: int = 1
    """Runs at a time on this machine; several small ones may share a device."""

    slurm: bool = False
    """Submit every run to SLURM and return."""

    slurm_partition: str | None = None
    """Partition of the cluster."""

    slurm_nodes: int = 1
    """Machines for each run, each with --devices GPUs."""

    slurm_account: str | None = None
    """Account to charge."""

    slurm_hours: int = 24
    """Time limit of a job in hours; one that is stopped goes on from its checkpoint."""

    slurm_parallel: int = 32
    """Jobs that may run at a time."""

    dry_run: bool = False
    """List the jobs and what is recorded of them, and train nothing."""
