"""What each treatment of a first layer costs: whole training steps beside vanilla's.

python -m benchmarks.treatments [--out records/benchmarks/treatments-cpu.jsonl]

One record for each network and method of the study: a step is forward, backward and the
optimizer on one batch, in interleaved rounds; `ratio` is the median over rounds of the
method's time over vanilla's in the same round.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
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


def measure(recipe: Recipe, rounds: int) -> list[dict[str, Any]]:
    """Time all arms of a recipe.

    Args:
        recipe: of the study.
        rounds: measurements of each arm.

    Returns:
        A record for each.
    """
    generator = torch.Generator().manual_seed(0)
    size = recipe.setting.batch_size
    images = torch.randn(size, *SHAPE, generator=generator)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(size) % NUM_CLASSES
    steps = {arm.method: step_of(recipe, arm, images, labels) for arm in recipe.arms}
    for step in steps.values():
        for _ in range(WARM_UP):
            step()
    seconds, problems = interleave(steps, rounds, torch.device("cpu"), seed=0)
    if problems:
        raise RuntimeError(str(problems))
    records: list[dict[str, Any]] = []
    for method, own in seconds.items():
        pairs = zip(own, seconds[BASELINE], strict=True)
        ratios = sorted(mine / theirs for mine, theirs in pairs)
        quarter = len(ratios) // 4
        records.append(
            {
                "model": recipe.setting.model,
                "optimizer": recipe.setting.optimizer,
                "method": method,
                "ratio": statistics.median(ratios),
                "quartiles": [ratios[quarter], ratios[-1 - quarter]],
                "seconds": statistics.median(own),
                "batch_size": size,
                "rounds": rounds,
            }
        )
    return records


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
        for recipe in find_recipes(RECIPES)
        for record in measure(recipe, options.rounds)
    ]
    write_records(records, options.out)


if __name__ == "__main__":
    main()
