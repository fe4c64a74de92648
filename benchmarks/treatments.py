"""What each treatment of a first layer costs: whole training steps beside vanilla's.

python -m benchmarks.treatments [--out records/benchmarks/treatments-cpu.jsonl]

One record for each network and method of the study, and one for each optimizer of the
small CNN's vanilla training: a step is forward, backward and the optimizer on one
batch, in interleaved rounds; `ratio` is the median over rounds of its time over that of
`baseline`, the method or the optimizer, in the same round.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.output import write_records
from trainact.lab.bench.timing import interleave
from trainact.lab.environment import describe
from trainact.lab.methods import METHODS, MethodSettings
from trainact.lab.models import build_model
from trainact.lab.recipe import Arm, Recipe
from trainact.lab.recipes import find_recipes
from trainact.lab.summary import BASELINE

RECIPES = (
    "first-layer-small-cnn-sgd-0.1",
    "first-layer-small-cnn-adam-0.003",
    "first-layer-small-cnn-lamb-0.003",
    "first-layer-small-cnn-muon-0.003",
    "first-layer-small-vit-adamw-0.003",
    "first-layer-small-mixer-adamw-0.003",
    "first-layer-small-resnet-sgd-0.1",
)
SHAPE = (3, 32, 32)
NUM_CLASSES = 10
ROUNDS = 15
WARM_UP = 2
# By which optimizers are compared, on the network that was trained by each.
BASE_OPTIMIZER, BASE_MODEL = "sgd", "small-cnn"


def step_of(
    recipe: Recipe, arm: Arm, images: Tensor, labels: Tensor
) -> Callable[[], Any]:
    """Prepare the training steps of an arm.

    Args:
        recipe: that it belongs to.
        arm: method and λ.
        images: one batch.
        labels: of it.

    Returns:
        Makes one step.
    """
    setting = recipe.setting
    torch.manual_seed(0)
    model = build_model(setting.model, SHAPE, NUM_CLASSES)
    method = METHODS[arm.method]
    given = MethodSettings(
        lam=arm.lam, layer=None, example_input=images[:1], images=lambda k: images[:k]
    )
    model = method.convert(model, given).to(memory_format=torch.channels_last)
    return partial(_step, model, method.optimizer(model, setting), images, labels)


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> None:
    optimizer.zero_grad()
    cross_entropy(model(images), labels).backward()
    optimizer.step()


def measure(
    cases: Mapping[str, tuple[Recipe, Arm]], baseline: str, rounds: int
) -> Iterator[dict[str, Any]]:
    """Time steps of several cases, side by side.

    Args:
        cases: by name, all with batches of the same size.
        baseline: which the others are divided by.
        rounds: measurements of each case.

    Yields:
        A record for each.
    """
    generator = torch.Generator().manual_seed(0)
    (size,) = {recipe.setting.batch_size for recipe, _ in cases.values()}
    images = torch.randn(size, *SHAPE, generator=generator)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(size) % NUM_CLASSES
    steps = {name: step_of(*case, images, labels) for name, case in cases.items()}
    for step in steps.values():
        for _ in range(WARM_UP):
            step()
    seconds, problems = interleave(steps, rounds, torch.device("cpu"), seed=0)
    if problems:
        raise RuntimeError(str(problems))
    for name, own in seconds.items():
        recipe, arm = cases[name]
        pairs = zip(own, seconds[baseline], strict=True)
        ratios = sorted(mine / theirs for mine, theirs in pairs)
        quarter = len(ratios) // 4
        yield {
            "model": recipe.setting.model,
            "optimizer": recipe.setting.optimizer,
            "method": arm.method,
            "baseline": baseline,
            "ratio": statistics.median(ratios),
            "quartiles": [ratios[quarter], ratios[-1 - quarter]],
            "seconds": statistics.median(own),
            "batch_size": size,
            "rounds": rounds,
        }


def comparisons() -> Iterator[tuple[dict[str, tuple[Recipe, Arm]], str]]:
    """What is timed side by side, and over what.

    Yields:
        The arms of each network and optimizer over vanilla training; then vanilla
        training by each optimizer over that by SGD.
    """
    recipes = find_recipes(RECIPES)
    for recipe in recipes:
        yield {arm.method: (recipe, arm) for arm in recipe.arms}, BASELINE
    by_optimizer = {
        recipe.setting.optimizer: (recipe, recipe.arms[0])
        for recipe in recipes
        if recipe.setting.model == BASE_MODEL
    }
    yield by_optimizer, BASE_OPTIMIZER


def main() -> None:
    """Time the arms of the study's recipes and write the records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    origin = describe(torch.device("cpu"))
    records = [
        record | origin
        for cases, baseline in comparisons()
        for record in measure(cases, baseline, options.rounds)
    ]
    write_records(records, options.out)


if __name__ == "__main__":
    main()
