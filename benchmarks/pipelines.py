"""How fast the two pipelines make training images ready, on one CPU core.

python -m benchmarks.pipelines --images .data/cifar10 --out FILE
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from trainact.lab.config import RunConfig
from trainact.lab.data import ImageData, load_data
from trainact.lab.data.augment import PIPELINES
from trainact.lab.data.resident import ResidentBatches
from trainact.lab.environment import describe

CPU = torch.device("cpu")
ROUNDS = 5
SINGLE = 500  # images one by one: enough for a rate


def config(augment: str) -> RunConfig:
    """A run whose images are augmented so; nothing is trained."""
    return RunConfig(
        data="",
        model="",
        epochs=1,
        batch_size=128,
        augment=augment,
        optimizer="sgd",
        lr=1.0,
        method="vanilla",
        lam=None,
        seed=0,
        device="cpu",
    )


def resident(data: ImageData, augment: str) -> Callable[[], None]:
    """An epoch of all images, in batches."""
    batches = ResidentBatches(config(augment), data, CPU)

    def run() -> None:
        for _ in batches:
            pass

    return run


def single(data: ImageData, augment: str) -> Callable[[], None]:
    """What a worker process does, for some of the images, in this process."""
    _, height, width = data.image_shape
    transform = PIPELINES[augment].transform(height, width)

    def run() -> None:
        for image in data.train_images[:SINGLE]:
            transform(image)

    return run


def measure(data: ImageData, augment: str, rounds: int) -> dict[str, list[float]]:
    """Processor seconds for all images, by each way, in interleaved rounds."""
    count = len(data.train_labels)
    ways = {"resident": (resident, count), "single": (single, SINGLE)}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for round_number in range(rounds + 1):
        for way, (make, images) in ways.items():
            run = make(data, augment)
            start = time.process_time()
            run()
            spent = time.process_time() - start
            if round_number > 0:  # the first one warms up
                seconds[way].append(round(spent * count / images, 4))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", required=True, help="folder of images, 32x32")
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data(f"imagefolder:{options.images}", Path(), None, options.limit)
    origin = describe(CPU)
    lines = [
        json.dumps(
            {
                "augment": augment,
                "images": len(data.train_labels),
                "seconds": measure(data, augment, options.rounds),
                **origin,
            }
        )
        for augment in PIPELINES
        if augment != "none"
    ]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
