"""What cheaper statistics cost and save: error of the update, time, accuracy.

python -m benchmarks.estimates --images FOLDER

One record for each problem and setting. "Error" is the relative error of the first
layer's gradient to that of exact TrAct, for the same batch and the same gradient of the
pre-activations, at every step of trainings by exact TrAct. "Time" is processor time of
the statistics alone, averaged over whole periods of the refresh, against exact ones.
FOLDER has one folder of images for each class.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import trainact
from tests.tolerances import relative_error
from trainact import Estimate
from trainact.damping import Damping
from trainact.geometry import Geometry, layer_geometry
from trainact.lab.data import ImageData, load_data
from trainact.lab.data.images import stratified_subset
from trainact.lab.data.normalise import Normalise
from trainact.lab.defaults import default_batch_size, default_lr
from trainact.lab.environment import describe
from trainact.lab.models import build_model
from trainact.statistics.estimated import Estimated
from trainact.statistics.local import local_factor

DAMPING = Damping(0.1)
SEEDS = (0, 1, 2)
LIMIT = 2000  # training and test images of FOLDER
ROUNDS = 3
PERIODS = 2

EVERY = [Estimate(every=k) for k in (2, 4, 16)]
DECAY = [Estimate(decay=d) for d in (0.9, 0.99)]
FRACTION = [Estimate(fraction=f) for f in (0.5, 0.25, 0.0625)]
TOGETHER = [Estimate(4, 0.0, 0.25), Estimate(16, 0.9, 1.0)]


@dataclass(frozen=True)
class Problem:
    """A model on images, and the settings that are tried on it."""

    data: str
    model: str
    epochs: int
    settings: tuple[Estimate, ...] = (*EVERY, *DECAY, *FRACTION, *TOGETHER)


def problems(images: Path) -> list[Problem]:
    folder = f"imagefolder:{images}"
    # A running average of 3,072 x 3,072 sums would take seconds for each refresh.
    few_rows = (*EVERY, *FRACTION)
    return [
        Problem("digits", "mlp", 15),
        Problem(folder, "small-cnn", 4),
        Problem(folder, "small-vit", 2),
        Problem(folder, "mlp", 4, few_rows),
    ]


class Watch:
    """Shadows of the first layer that see what it sees; their errors at each step."""

    def __init__(self, layer: Any, settings: tuple[Estimate, ...]) -> None:
        self.layer = layer
        self.errors: dict[Estimate, list[float]] = {one: [] for one in settings}
        self._shadows = {one: copy.deepcopy(layer) for one in settings}
        for setting, shadow in self._shadows.items():
            shadow.estimate = setting
        self.first_batch: Tensor | None = None
        self._x = self._grad_z = torch.empty(0)
        layer.register_forward_hook(self._see)

    def _see(self, layer: nn.Module, inputs: tuple[Tensor, ...], z: Tensor) -> None:
        del layer
        if z.requires_grad:
            self._x = inputs[0].detach()
            if self.first_batch is None:
                self.first_batch = self._x
            z.register_hook(self._see_gradient)

    def _see_gradient(self, grad_z: Tensor) -> None:
        self._grad_z = grad_z

    def step(self) -> None:
        for setting, shadow in self._shadows.items():
            shadow.zero_grad()
            shadow(self._x).backward(self._grad_z)
            error = relative_error(shadow.weight.grad, self.layer.weight.grad)
            self.errors[setting].append(error)


def vanilla(problem: Problem, data: ImageData, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(problem.model, data.image_shape, data.num_classes)


def treated(
    problem: Problem, data: ImageData, seed: int, setting: Estimate | None = None
) -> nn.Module:
    image = Normalise(*data.statistics)(data.train_images[:1])
    model = vanilla(problem, data, seed)
    return trainact.apply(model, DAMPING.lam, example_input=image, estimate=setting)


def train(
    problem: Problem,
    model: nn.Module,
    data: ImageData,
    seed: int,
    watch: Watch | None = None,
) -> tuple[float, float]:
    """Train a model: (accuracy on the test images, milliseconds of a step)."""
    normalise = Normalise(*data.statistics)
    size = default_batch_size(problem.data)
    lr = default_lr("sgd", problem.model)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    generator = torch.Generator().manual_seed(seed)
    count = len(data.train_labels)
    steps = problem.epochs * -(-count // size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    seconds = 0.0
    for _ in range(problem.epochs):
        for part in torch.randperm(count, generator=generator).split(size):
            start = time.process_time()
            optimizer.zero_grad()
            z = model(normalise(data.train_images[part]))
            cross_entropy(z, data.train_labels[part]).backward()
            optimizer.step()
            seconds += time.process_time() - start
            schedule.step()
            if watch is not None:
                watch.step()
    return accuracy(model, normalise, data), 1e3 * seconds / steps


@torch.no_grad()
def accuracy(model: nn.Module, normalise: nn.Module, data: ImageData) -> float:
    model.eval()
    right = [
        (model(normalise(images)).argmax(1) == labels).sum()
        for images, labels in zip(
            data.test_images.split(500), data.test_labels.split(500), strict=True
        )
    ]
    return int(sum(right)) / len(data.test_labels)


def times(
    x: Tensor, geometry: Geometry, settings: tuple[Estimate, ...]
) -> tuple[dict[Estimate, float], float]:
    """(processor time of statistics to that of exact ones, milliseconds of those)."""
    exact = partial(local_factor, x, geometry, DAMPING)
    seconds: dict[Estimate | None, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        seconds[None].append(mean_seconds(exact, 16))
        for setting in settings:
            estimated = Estimated(setting, None)

            def call(estimated: Estimated = estimated) -> Any:
                with torch.no_grad():
                    return estimated.factor(x, geometry, DAMPING, None)

            calls = PERIODS * max(8, setting.every)
            seconds[setting].append(mean_seconds(call, calls))
    base = statistics.median(seconds[None])
    return {s: statistics.median(seconds[s]) / base for s in settings}, 1e3 * base


def mean_seconds(call: Callable[[], Any], calls: int) -> float:
    start = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - start) / calls


def limited(data: ImageData, limit: int) -> ImageData:
    """As many test images as training images, each class keeping its share."""
    keep = stratified_subset(
        data.test_labels.numpy(), min(limit, len(data.test_labels))
    )
    return dataclasses.replace(
        data, test_images=data.test_images[keep], test_labels=data.test_labels[keep]
    )


def measure(problem: Problem) -> Iterator[dict[str, Any]]:
    """Records of vanilla, of exact TrAct and of every setting."""
    limit = None if problem.data == "digits" else LIMIT
    data = limited(load_data(problem.data, Path(), limit=limit), LIMIT)
    accuracies: dict[Any, list[float]] = defaultdict(list)
    errors: dict[Estimate, list[float]] = defaultdict(list)
    step_ms: list[float] = []
    watch = None
    for seed in SEEDS:
        model = vanilla(problem, data, seed)
        reached, ms = train(problem, model, data, seed)
        accuracies["vanilla"].append(reached)
        step_ms.append(ms)
        model = treated(problem, data, seed)
        watch = Watch(
            next(iter(trainact.tract_layers(model).values())), problem.settings
        )
        accuracies["exact"].append(train(problem, model, data, seed, watch)[0])
        for setting, of_run in watch.errors.items():
            errors[setting] += of_run
            model = treated(problem, data, seed, setting)
            accuracies[setting].append(train(problem, model, data, seed)[0])
    assert watch is not None  # noqa: S101
    assert watch.first_batch is not None  # noqa: S101
    layer, x = watch.layer, watch.first_batch
    geometry = layer_geometry(layer)
    ratios, exact_ms = times(x, geometry, problem.settings)
    common = {
        "data": "CIFAR-10" if "cifar10" in problem.data else problem.data,
        "model": problem.model,
        "epochs": problem.epochs,
        "images": len(data.train_labels),
        "test_images": len(data.test_labels),
        "entries": geometry.num_entries,
        "rows": geometry.num_rows(x.shape),
        "vanilla_step_ms": statistics.median(step_ms),
        "exact_ms": exact_ms,
    }
    for name, of_seeds in accuracies.items():
        record: dict[str, Any] = {**common, "setting": name, "accuracy": of_seeds}
        if isinstance(name, Estimate):
            record["setting"] = dataclasses.asdict(name)
            record["error_median"] = statistics.median(errors[name])
            record["error_max"] = max(errors[name])
            record["time"] = ratios[name]
        yield record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/estimates.jsonl"))
    arguments = parser.parse_args()
    setting = describe(torch.device("cpu"))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("w") as file:
        for problem in problems(arguments.images):
            for record in measure(problem):
                file.write(json.dumps({**record, **setting}) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
