"""``python -m trainact.lab.gpu NAME DATA OUT``: runs for a GPU, for `make gpu-lab`.

Vanilla training and TrAct in bfloat16, channels last and compiled: what a user of such
a machine would choose. Photographs are brought to 64 pixels, the size of those that a
small set has. It needs no tyro, and the same command again trains what is missing.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from trainact.lab.errors import LabError
from trainact.lab.experiment import plan
from trainact.lab.experiment_options import ExperimentOptions
from trainact.lab.local import train_missing
from trainact.lab.progress import make_console
from trainact.lab.recipes import find_recipes


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
USAGE = f"usage: python -m trainact.lab.gpu {{{','.join(RUNS)}}} DATA OUT"


def run(arguments: list[str]) -> int:
    """Train what is missing.

    Args:
        arguments: a key of `RUNS`, the data as `trainact run --data` takes it, and the
            folder of runs.

    Returns:
        The exit code: 0, 2 for bad input, 130 after Ctrl-C.
    """
    if len(arguments) != 3 or arguments[0] not in RUNS:
        sys.stderr.write(USAGE + "\n")
        return 2
    chosen = RUNS[arguments[0]]
    options = ExperimentOptions(
        data=arguments[1],
        out=Path(arguments[2]),
        lam=(0.1,),
        epochs=chosen.epochs,
        image_size=chosen.image_size,
        precision="bf16-mixed",
        channels_last=True,
        compile=True,
        logger="none",
    )
    try:
        recipes = find_recipes([chosen.recipe])
        jobs = plan(recipes, options, chosen.seeds)
        return train_missing(jobs, chosen.recipe, options.out, make_console())
    except LabError as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
