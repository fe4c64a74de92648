"""The studies' accuracies, from the committed records."""

from __future__ import annotations

from functools import cache
from statistics import fmean
from typing import Any

from benchmarks.first_layer_pages import studies
from trainact.lab import tuning
from trainact.lab.records import Record


@cache
def runs_of(
    model: str,
    pixels: str = "cifar10",
    epochs: int = 8,
    images: str = "cifar10",
    lam: float = 0.1,
    is_pretrained: bool = False,
) -> list[Record]:
    """With this λ, where there is one."""
    alike = model, epochs, pixels, is_pretrained
    return [
        record
        for record in studies()[0]
        if (c := record.config).lam in (None, lam)
        and (c.model, c.epochs, c.normalise, c.initial is not None) == alike
        and c.data.endswith(images)
        and c.limit in (None, 10_000)
    ]


# Per cent, by optimizer, method and learning rate, then by seed.
Runs = dict[tuple[str, str, float], dict[int, float]]


def accuracies(*alike: Any, **more: Any) -> Runs:
    """Of the last epoch."""
    found: Runs = {}
    for record in runs_of(*alike, **more):
        config = record.config
        key = config.optimizer, config.method, config.lr
        found.setdefault(key, {})[config.seed] = 100 * record.accuracy[-1]
    return found


RUNS, VIT, RESNET, MIXER = (
    accuracies(f"small-{model}") for model in ("cnn", "vit", "resnet", "mixer")
)
FINE_TUNED = accuracies("small-cnn", epochs=4, is_pretrained=True)
TINY = accuracies("small-cnn", images="tiny-imagenet-50")
DIGITS = {
    model: accuracies(model, "data", images="digits")
    for model in ("small-cnn", "small-vit", "small-mixer")
}
DIGITS_RESNET = accuracies("small-resnet", "data", images="digits")


def best_rate(runs: Runs, optimizer: str, method: str) -> float:
    """The one that the first seed chose."""
    return tuning.best_rate(
        {lr: of[0] for (o, m, lr), of in runs.items() if (o, m) == (optimizer, method)}
    )


def best(optimizer: str, method: str, runs: Runs = RUNS) -> list[float]:
    """At the arm's best rate, seed by seed."""
    found = runs[optimizer, method, best_rate(runs, optimizer, method)]
    return [found[seed] for seed in sorted(found)]


def gain(optimizer: str, method: str, runs: Runs) -> float:
    """Over vanilla training, each at its own best rate."""
    own, vanilla = (best(optimizer, m, runs) for m in (method, "vanilla"))
    return fmean(own) - fmean(vanilla)
