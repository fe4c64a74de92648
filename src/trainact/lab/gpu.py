"""``python -m trainact.lab.gpu NAME DATA OUT``: runs for a GPU, for `make gpu-lab`.

Vanilla training and TrAct in bfloat16, channels last and compiled: what a user of such
a machine would choose. Photographs are brought to 64 pixels, the size of those that a
small set has. It needs no tyro, and the same command again trains what is missing.

``studies`` is the comparison of first layers instead: small networks in float32, tuned
as `trainact sweep --tuned` does it, several side by side.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from trainact.cli.exit_codes import EXIT_INTERRUPTED, EXIT_OK
from trainact.lab.errors import LabError
from trainact.lab.experiment import plan
from trainact.lab.experiment_options import ExperimentOptions
from trainact.lab.local import finish, train_missing, without_record
from trainact.lab.processes import run_side_by_side
from trainact.lab.progress import make_console
from trainact.lab.recipes import find_recipes
from trainact.lab.tuning import TUNING_SEED, tuning_rounds
from trainact.lab.workspace import Workspace


@dataclass(frozen=True)
class GpuRun:
    """A recipe at the size that a borrowed GPU allows.

    Attributes:
        recipe: name.
        seeds: one after the other.
        image_size: of photographs, or None for images that have a size of their own.
        epochs: or None for the recipe's.
    """

    recipe: str
    seeds: tuple[int, ...]
    image_size: int | None = None
    epochs: int | None = None


RUNS = {
    "fig3": GpuRun("fig3-sgd-100", (0, 1)),
    "resnet18": GpuRun("fig11-30", (0, 1, 2), image_size=64),
    "resnet50": GpuRun("fig5-30", (0, 1, 2), image_size=64),
    "deit": GpuRun("table3-vit-s-400", (0, 1, 2), image_size=64, epochs=100),
}
STUDIES = "studies"
STUDIED = ("first-layer", "damping", "optimizers-cifar10")
STUDY_SEEDS = (1, 2, 3)
SIDE_BY_SIDE = 8
USAGE = f"usage: python -m trainact.lab.gpu {{{','.join([*RUNS, STUDIES])}}} DATA OUT"


def run(arguments: list[str]) -> int:
    """Train what is missing.

    Args:
        arguments: a key of `RUNS` or `STUDIES`, the data as `trainact run --data` takes
            it, and the folder of runs.

    Returns:
        The exit code: 0, 2 for bad input, 130 after Ctrl-C.
    """
    if len(arguments) != 3 or arguments[0] not in (*RUNS, STUDIES):
        sys.stderr.write(USAGE + "\n")
        return 2
    name, data, out = arguments
    options = ExperimentOptions(data=data, out=Path(out), logger="none")
    try:
        return _study(options) if name == STUDIES else _train(RUNS[name], options)
    except LabError as error:
        sys.stderr.write(f"{error}\n")
        return 2


def _train(chosen: GpuRun, given: ExperimentOptions) -> int:
    options = replace(
        given,
        lam=(0.1,),
        epochs=chosen.epochs,
        image_size=chosen.image_size,
        precision="bf16-mixed",
        channels_last=True,
        compile=True,
    )
    jobs = plan(find_recipes([chosen.recipe]), options, chosen.seeds)
    return train_missing(jobs, chosen.recipe, options.out, make_console())


def _study(options: ExperimentOptions) -> int:
    console, workspace = make_console(), Workspace(options.out)
    workspace.prepare()
    recipes = find_recipes(STUDIED)
    tuning, fresh = (plan(recipes, options, s) for s in ((TUNING_SEED,), STUDY_SEEDS))
    for chosen in tuning_rounds(tuning, fresh, workspace):
        missing = without_record(chosen, workspace)
        _, interrupted = run_side_by_side(missing, SIDE_BY_SIDE, console)
        finish(console, workspace, chosen, interrupted=interrupted)
        if interrupted:
            return EXIT_INTERRUPTED
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
