"""``python -m trainact.lab.gpu DATA OUT``: Figure 3 on a GPU, for `make gpu-lab`.

The SGD arms of 100 epochs, vanilla and TrAct, two seeds, in bfloat16, channels last and
compiled: what a user of such a machine would choose. It needs no tyro, and the same
command again trains what is missing.
"""

from __future__ import annotations

import sys
from pathlib import Path

from trainact.lab.errors import LabError
from trainact.lab.experiment import plan
from trainact.lab.experiment_options import ExperimentOptions
from trainact.lab.local import train_missing
from trainact.lab.progress import make_console
from trainact.lab.recipes import find_recipes

RECIPE = "fig3-sgd-100"
SEEDS = (0, 1)
USAGE = "usage: python -m trainact.lab.gpu DATA OUT"


def run(arguments: list[str]) -> int:
    """Train what is missing.

    Args:
        arguments: the data as `trainact run --data` takes it, and the folder of runs.

    Returns:
        The exit code: 0, 2 for bad input, 130 after Ctrl-C.
    """
    if len(arguments) != 2:
        sys.stderr.write(USAGE + "\n")
        return 2
    options = ExperimentOptions(
        data=arguments[0],
        out=Path(arguments[1]),
        lam=(0.1,),
        precision="bf16-mixed",
        channels_last=True,
        compile=True,
        logger="none",
    )
    try:
        recipes = find_recipes([RECIPE])
        jobs = plan(recipes, options, SEEDS)
        return train_missing(jobs, recipes[0].name, options.out, make_console())
    except LabError as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
