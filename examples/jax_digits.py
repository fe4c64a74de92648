"""Vanilla against TrAct in JAX: a small Flax NNX network on scikit-learn's digits.

    python examples/jax_digits.py --out runs/jax-digits
    trainact report runs/jax-digits

Under a minute on a CPU. The lines that TrAct needs are marked.
"""

from __future__ import annotations

import argparse
import functools
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import torch
from flax import nnx

import trainact.jax.nnx  # <- once
from trainact.lab import environment
from trainact.lab.config import RunConfig, setting_hash
from trainact.lab.data import load_data
from trainact.lab.records import Record, RecordFile, finite

LR, BATCH = 0.1, 64
Images = dict[str, jax.Array]


class Network(nnx.Module):
    """Two convolutions and a linear layer."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.second = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.head = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.second(nnx.relu(self.first(x))))
        return self.head(x.mean((1, 2)))


def loss_of(model: Network, x: jax.Array, y: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()


@nnx.jit
def train_epoch(
    model: Network, optimizer: nnx.Optimizer[Network], images: Images, key: jax.Array
) -> jax.Array:
    """One pass over the images in a random order; returns the mean loss."""
    num_images = len(images["train"])
    order = jax.random.permutation(key, num_images)[: num_images // BATCH * BATCH]

    @nnx.scan(in_axes=(nnx.Carry, 0))
    def step(carry: Any, batch: jax.Array) -> tuple[Any, jax.Array]:
        model, optimizer = carry
        x, y = images["train"][batch], images["train_labels"][batch]
        loss, grads = nnx.value_and_grad(loss_of)(model, x, y)
        optimizer.update(model, grads)
        return (model, optimizer), loss

    return step((model, optimizer), order.reshape(-1, BATCH))[1].mean()


@nnx.jit
def accuracy(model: Network, images: Images) -> jax.Array:
    return (model(images["test"]).argmax(-1) == images["test_labels"]).mean()


@functools.cache  # the same object for all runs, so that they share what is compiled
def make_sgd(lr: float, momentum: float, steps: int) -> optax.GradientTransformation:
    return optax.sgd(optax.cosine_decay_schedule(lr, steps), momentum)


def train(config: RunConfig, images: Images) -> dict[str, Any]:
    """Train one network; returns what a record says of its epochs."""
    model = Network(nnx.Rngs(config.seed))
    if config.lam is not None:
        trainact.jax.nnx.apply(model, config.lam, layer="first")  # <- once
    steps = config.epochs * (len(images["train"]) // BATCH)
    sgd = make_sgd(config.lr, config.momentum, steps)
    optimizer = nnx.Optimizer(model, sgd, wrt=nnx.Param)
    accuracies: list[float] = []
    losses: list[float | None] = []
    seconds: list[float] = []
    for key in jax.random.split(jax.random.key(config.seed), config.epochs):
        begun = time.perf_counter()
        losses.append(finite(float(train_epoch(model, optimizer, images, key))))
        seconds.append(round(time.perf_counter() - begun, 4))
        accuracies.append(round(float(accuracy(model, images)), 6))
    weights = jax.tree.leaves(nnx.state(model, nnx.Param))
    return {
        "accuracy": tuple(accuracies),
        "loss": tuple(losses),
        "seconds": tuple(seconds),  # the first epoch may have been compiled
        "diverged": losses[-1] is None,
        "layers": tuple(trainact.jax.nnx.tract_layers(model)),
        "num_parameters": sum(weight.size for weight in weights),
    }


def main() -> None:
    """Train both methods with every seed, and record the runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lam", type=float, default=0.1)
    parser.add_argument("--out", type=Path, default=Path("runs/jax-digits"))
    given = parser.parse_args()
    data = load_data("digits", Path(".data"))
    mean, std = data.statistics
    images = {
        split: jnp.asarray(
            ((of.float() - mean.view(-1, 1, 1)) / std.view(-1, 1, 1))
            .permute(0, 2, 3, 1)
            .numpy()
        )
        for split, of in (("train", data.train_images), ("test", data.test_images))
    }
    images["train_labels"] = jnp.asarray(data.train_labels.numpy())
    images["test_labels"] = jnp.asarray(data.test_labels.numpy())
    vanilla = RunConfig(
        data="digits",
        model="flax:two-convolutions",
        epochs=given.epochs,
        batch_size=BATCH,
        drop_last=True,
        optimizer="sgd",
        lr=LR,
        device=jax.default_backend(),
        method="vanilla",
        lam=None,
        seed=0,
    )
    given.out.mkdir(parents=True, exist_ok=True)
    file = RecordFile(given.out / "records.jsonl")
    recorded = {record.key for record in file.read()[0]}
    origin = environment.describe(torch.device("cpu"))
    origin["versions"] = {"jax": jax.__version__, **origin["versions"]}
    origin["command"] = shlex.join(["python", "examples/jax_digits.py", *sys.argv[1:]])
    for seed in range(given.seeds):
        for method, lam in (("vanilla", None), ("tract", given.lam)):
            config = replace(vanilla, method=method, lam=lam, seed=seed)
            key = config.key(str(data.fingerprint["hash"]))
            if key in recorded:
                continue
            record = Record(
                key=key,
                config=config,
                data=data.fingerprint,
                recipe_hash=setting_hash(config.setting),
                **origin,
                **train(config, images),
            )
            file.append(record)
            print(f"{config.title}: accuracy {record.accuracy[-1]:.4f}")


if __name__ == "__main__":
    main()
