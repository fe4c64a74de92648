"""Why TrAct works, measured: what is asked of a first layer, and what a step obtains.

python -m benchmarks.why --images .data/cifar10 --out records/benchmarks/why-cpu.jsonl

Four kinds of records. `proposal`: Fig. 1 of the paper on real layers. `shares`: what
each image contributes to an update. `spectrum`: of A. `filters`: of a first layer after
training. A folder of images has train/ and test/ with a folder for each class.

Legend: P entries of a row (the paper's n), O outputs, D directions.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

import trainact
from benchmarks.estimates import limited
from benchmarks.why_measures import (
    LAM,
    Call,
    Record,
    image_norms,
    number,
    numbers,
    observe,
    proposal,
    seeded,
    share_records,
    shares,
)
from trainact.functional import patch_gram
from trainact.lab.classification import ClassificationTask
from trainact.lab.config import RunConfig
from trainact.lab.data import ImageData, load_data
from trainact.lab.data.images import SPLIT_SEED
from trainact.lab.data.normalise import Normalise, find_statistics
from trainact.lab.data.pipeline import make_batches, make_test_batches
from trainact.lab.defaults import default_batch_size, default_lr
from trainact.lab.environment import describe
from trainact.lab.methods import MethodSettings, find_method
from trainact.lab.models import build_model
from trainact.lab.quiet import quiet_lightning
from trainact.lab.trainer import make_trainer

CPU = torch.device("cpu")
TEXT = Path(__file__).parents[1] / "LICENSE"
LIMIT, TEST_LIMIT = 4000, 2000  # images
SEEDS = (0, 1, 2)
EPOCHS = (0, 1)  # of vanilla training before a step is looked at
# The MLP has 3,072 entries: a system of that size for every batch would take minutes.
SETTINGS = (("mlp", "data"), *product(("small-vit", "small-cnn"), ("data", "0-1")))
WORD_WIDTH, WORD_BATCH, WORD_LR = 32, 16, 0.1
# (kernel, stride, padding, whether eigenvectors are kept)
PATCHES = ((3, 1, 1, True), (8, 8, 0, False), (16, 16, 0, False))
KERNEL, NUM_FILTERS = 7, 32
FILTER_LR, FILTER_EPOCHS = 0.1, 3
FASTER = 10  # times the learning rate, for the first layer of a control


def language(seed: int, epochs: int, once: bool) -> Call:
    """A step of a model that embeds a word and predicts the next one.

    The text is one that is always there: this project's licence. `once` keeps one of
    all places of a word.
    """
    torch.manual_seed(seed)
    text = re.findall(r"[a-z]+", TEXT.read_text().lower())
    index = {word: place for place, word in enumerate(dict.fromkeys(text))}
    tokens = torch.tensor([index[word] for word in text])
    x, labels = one_hot(tokens[:-1], len(index)).float(), tokens[1:]
    layer = nn.Linear(len(index), WORD_WIDTH, bias=False)
    nn.init.normal_(layer.weight)  # as nn.Embedding's
    model = nn.Sequential(layer, nn.ReLU(), nn.Linear(WORD_WIDTH, len(index)))
    optimizer = torch.optim.SGD(model.parameters(), lr=WORD_LR, momentum=0.9)
    for _ in range(epochs):
        for part in torch.randperm(len(labels)).split(WORD_BATCH):
            optimizer.zero_grad()
            cross_entropy(model(x[part]), labels[part]).backward()
            optimizer.step()
    if once:
        places = reversed(list(enumerate(tokens[:-1].tolist())))
        keep = torch.tensor(list({token: place for place, token in places}.values()))
        x, labels = x[keep], labels[keep]
    return observe(model, layer, x, labels)


def config(model: str, seed: int, epochs: int, **changed: Any) -> RunConfig:
    """A training as the laboratory does it."""
    plain = RunConfig(
        data="",
        model=model,
        epochs=epochs,
        batch_size=default_batch_size(""),
        optimizer="sgd",
        lr=default_lr("sgd", model),
        method="vanilla",
        lam=None,
        seed=seed,
        device="cpu",
    )
    return replace(plain, **changed)


def train(model: nn.Module, run: RunConfig, data: ImageData) -> list[float]:
    """Train by the laboratory's trainer: accuracy after each epoch."""
    statistics = find_statistics(run.normalise, data)
    task = ClassificationTask(model, run, statistics, data.num_classes)
    task.batches = make_batches(run, data, CPU, "resident")
    with quiet_lightning():
        trainer = make_trainer(run, CPU, [])
        trainer.fit(task, task.batches, make_test_batches(data, CPU, 500))
    return [round(epoch.accuracy, 4) for epoch in task.history]


def build(run: RunConfig, data: ImageData) -> nn.Module:
    torch.manual_seed(run.seed)
    return build_model(run.model, data.image_shape, data.num_classes)


def calls(run: RunConfig, data: ImageData, order: Tensor) -> Iterator[Call]:
    """Train, then look at a step on each whole batch of the images in an order."""
    model = build(run, data)
    if run.epochs:
        train(model, run, data)
    normalise = Normalise(*find_statistics(run.normalise, data))
    example = normalise(data.train_images[:1])
    (layer,) = trainact.first_layers(model, example_input=example).values()
    for part in order.split(run.batch_size):
        x = normalise(data.train_images[part])
        yield observe(model, layer, x, data.train_labels[part])


def steps(data: ImageData) -> Iterator[Record]:
    """Proposals and shares, of words and of images."""
    for seed, epochs, once in product(SEEDS, EPOCHS, (True, False)):
        common = {"measure": "proposal", "seed": seed, "epochs": epochs}
        name = "words, each once" if once else "words"
        call = language(seed, epochs, once)
        yield {**common, "layer": name, **proposal(call, (seed, epochs) == (0, 1))}
    for (model, normalise), seed, epochs in product(SETTINGS, SEEDS, EPOCHS):
        run = config(model, seed, epochs, normalise=normalise)
        common = {"layer": model, "input": normalise, "seed": seed, "epochs": epochs}
        order = torch.randperm(data.num_train, generator=seeded(seed))
        order = order[: len(order) // run.batch_size * run.batch_size]
        stream = calls(run, data, order)
        first = next(stream)
        if normalise == "data":
            with_points = (seed, epochs) == (0, 1)
            yield {"measure": "proposal", **common, **proposal(first, with_points)}
        if model != "mlp":
            share = shares(image_norms(call) for call in chain([first], stream))
            for record in share_records(data.train_images[order], share):
                yield {**record, **common}


def directions(
    images: Tensor, kernel: int, stride: int, padding: int
) -> tuple[Tensor, Tensor]:
    """Eigenvalues of A, descending, [D], and its eigenvectors, [P, D]."""
    gram_PP = patch_gram(images.double(), kernel, stride, padding)
    values, vectors = torch.linalg.eigh(gram_PP)
    return values.flip(0).clamp(min=0), vectors.flip(1)


def spectra(name: str, data: ImageData, inputs: Iterable[str]) -> Iterator[Record]:
    """Of the patches of an image set."""
    for normalise, (kernel, stride, padding, keeps) in product(inputs, PATCHES):
        x = Normalise(*find_statistics(normalise, data))(data.train_images)
        values, vectors = directions(x, kernel, stride, padding)
        yield {
            "measure": "spectrum",
            "data": name,
            "input": normalise,
            "seed": SPLIT_SEED,
            "images": data.num_train,
            "kernel": kernel,
            "stride": stride,
            "eigenvalues": numbers(values),
            **({"vectors": numbers(vectors.mT, 3)} if keeps else {}),
        }


def filters(data: ImageData) -> Iterator[Record]:
    """Train a wide first layer in three ways; what became of it."""
    x = Normalise(*data.statistics)(data.train_images)
    values_D, vectors_PD = directions(x, KERNEL, 1, KERNEL // 2)
    arms = (("vanilla", 1), ("vanilla+sgd", FASTER), ("tract", 1))
    for seed, (method, times) in product(SEEDS, arms):
        run = config("small-cnn", seed, FILTER_EPOCHS, lr=FILTER_LR, method=method)
        run = replace(run, first_layer_lr=times * FILTER_LR, layer="conv1")
        model: Any = build(run, data)
        channels = data.image_shape[0]
        model.conv1 = nn.Conv2d(channels, NUM_FILTERS, KERNEL, padding=KERNEL // 2)
        initial = model.conv1.weight.detach().clone()
        settings = MethodSettings(LAM, "conv1", x[:1], lambda count: x[:count])
        model = find_method(method).convert(model, settings)
        accuracy = train(model, run, data)
        final = model.conv1.weight.detach()
        moved_OD = (final - initial).flatten(1).double() @ vectors_PD
        energy_D = moved_OD.square().sum(0)
        record: Record = {
            "measure": "filters",
            "method": method,
            "first_layer_lr": times * FILTER_LR,
            "seed": seed,
            "accuracy": accuracy,
            "moved": number(moved_OD.norm() / initial.norm()),
            "energy": numbers(energy_D / energy_D.sum(), 3),
            "above_lam": int((values_D > LAM).sum()),
        }
        if seed == 0:
            record["final"] = shortened(final)
            if method == "vanilla":  # the same for all
                record["initial"] = shortened(initial)
        yield record


def shortened(weight: Tensor) -> list[Any]:
    """Filters with four decimals."""
    return [[round(v, 4) for v in row] for row in weight.flatten(1).tolist()]


def measure(images: Path, other: Path) -> Iterator[Record]:
    """All records."""
    data = limited(load_data(f"imagefolder:{images}", Path(), None, LIMIT), TEST_LIMIT)
    yield from spectra(images.name, data, ("data", "0-1"))
    if other.exists():
        more = load_data(f"imagefolder:{other}", Path(), None, LIMIT)
        yield from spectra(other.name, more, ("data",))
    yield from steps(data)
    yield from filters(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument(
        "--other",
        type=Path,
        default=Path(".data/tiny-imagenet-50"),
        help="a further folder, for spectra; left out where it does not exist",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/why.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    origin = describe(CPU)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w") as file:
        for record in measure(options.images, options.other):
            file.write(json.dumps({**record, **origin}) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
