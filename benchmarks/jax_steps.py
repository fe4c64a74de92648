"""What TrAct costs in JAX: jitted training steps with and without, interleaved.

python -m benchmarks.jax_steps --out records/benchmarks/jax-cpu.jsonl
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import torch
from flax import nnx

import trainact.jax.nnx
from benchmarks.jax_networks import ResNet, ViT
from benchmarks.output import write_records
from trainact.lab.bench.timing import interleave
from trainact.lab.bench.workload import Action
from trainact.lab.environment import describe

LAM, LR = 0.1, 0.01


@dataclass(frozen=True)
class Case:
    """A network and its images."""

    make: Callable[[], nnx.Module]
    first: str
    batch: int
    size: int


CASES = {
    "ResNet-18, CIFAR stem, 32x32": Case(
        lambda: ResNet([2, 2, 2, 2], bottleneck=False, cifar=True), "stem.conv", 32, 32
    ),
    "ResNet-50, 224x224": Case(
        lambda: ResNet([3, 4, 6, 3], bottleneck=True, cifar=False), "stem.conv", 8, 224
    ),
    "ViT-S/16, 224x224": Case(lambda: ViT(384, 12, 6), "patches", 8, 224),
}


def make_step(case: Case, lam: float | None) -> Callable[[], None]:
    """A jitted training step, compiled; each call is one step."""
    model = case.make()
    if lam is not None:
        trainact.jax.nnx.apply(model, lam, layer=case.first)
    optimizer = nnx.Optimizer(model, optax.sgd(LR, 0.9), wrt=nnx.Param)
    shape = (case.batch, case.size, case.size, 3)
    x = jax.random.normal(jax.random.key(0), shape)
    y = jnp.arange(case.batch) % 10

    @nnx.jit  # the images are arguments: what is constant would be computed beforehand
    def step(model: Any, optimizer: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        def loss_of(model: Any) -> jax.Array:
            losses = optax.softmax_cross_entropy_with_integer_labels(model(x), y)
            return losses.mean()

        loss, grads = nnx.value_and_grad(loss_of)(model)
        optimizer.update(model, grads)
        return loss

    def act() -> None:
        jax.block_until_ready(step(model, optimizer, x, y))

    for _ in range(2):
        act()
    return act


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Seconds of every round, and ratios within rounds."""
    case = CASES[name]
    actions: dict[str, Action] = {
        "vanilla": make_step(case, None),
        "tract": make_step(case, LAM),
    }
    seconds, problems = interleave(actions, rounds, torch.device("cpu"), seed=0)
    if problems:
        raise RuntimeError(problems)
    pairs = zip(seconds["tract"], seconds["vanilla"], strict=True)
    low, middle, high = statistics.quantiles([a / b for a, b in pairs], n=4)
    return {
        "case": name,
        "batch": case.batch,
        "size": case.size,
        "seconds": seconds,
        "ratio": [round(value, 4) for value in (low, middle, high)],
    }


def main() -> None:
    """Measure all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    origin = describe(torch.device("cpu"))
    origin["versions"] = {"jax": jax.__version__, **origin["versions"]}
    records: list[dict[str, Any]] = []
    for name in given.cases:
        record = measure(name, given.rounds)
        print(name, record["ratio"], flush=True)
        records.append({**record, **origin})
    if given.out:
        write_records(records, given.out)


if __name__ == "__main__":
    main()
