"""Whole training steps: TrAct and torch-tract against vanilla, interleaved.

    python -m benchmarks.steps [--rounds 30] [--cases resnet18-cifar-b128 ...] [--out
    FILE]

One round runs one step of every arm in a random order, so that what else the machine
does hits all arms alike. Reported is the median over rounds of the ratio to vanilla
within the round, with its quartiles and a bootstrap interval of the median;
milliseconds are for orientation only. Each arm has its own model, made from the same
seed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import trainact
from benchmarks.cases import CASES, Case

Step = Callable[[], None]


def treat_with_peer(model: nn.Module, layer: str) -> nn.Module:
    """Put the paper's released code on the layer."""
    import torch_tract  # pyright: ignore[reportMissingImports]

    parent_name, _, name = layer.rpartition(".")
    treated = torch_tract.TrAct(model.get_submodule(layer), l=0.1)
    setattr(model.get_submodule(parent_name), name, treated)
    return model


ARMS: dict[str, Callable[[nn.Module, str], nn.Module]] = {
    "vanilla": lambda model, _: model,
    "vanilla again": lambda model, _: model,
    "trainact": lambda model, layer: trainact.apply(model, layer=layer),
    "torch-tract": treat_with_peer,
}


def make_step(case: Case, arm: str, device: torch.device) -> Step:
    """Build one arm's model and return a function that trains it by one step."""
    torch.manual_seed(0)
    model = ARMS[arm](case.build(), case.layer).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    x = torch.randn(case.shape, device=device)
    y = torch.randint(case.num_classes, case.shape[:1], device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def timed(step: Step, device: torch.device) -> float:
    """Seconds that a step takes, waiting for the device on both sides."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(case: Case, rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every round and arm."""
    order = random.Random(0)
    steps = {arm: make_step(case, arm, device) for arm in ARMS}
    for step in steps.values():
        for _ in range(2):
            step()
    seconds: dict[str, list[float]] = {arm: [] for arm in steps}
    for _ in range(rounds):
        for arm in order.sample(list(steps), len(steps)):
            seconds[arm].append(timed(steps[arm], device))
    return seconds


def summarise(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Ratios to vanilla within the round."""
    summary: dict[str, dict[str, float]] = {}
    for arm, own in seconds.items():
        ratios = [s / v for s, v in zip(own, seconds["vanilla"], strict=True)]
        quartiles = statistics.quantiles(ratios, n=4)
        low, high = bootstrap(ratios)
        summary[arm] = {
            "median_ms": 1e3 * statistics.median(own),
            "ratio_p25": quartiles[0],
            "ratio_median": quartiles[1],
            "ratio_p75": quartiles[2],
            "median_low_95": low,
            "median_high_95": high,
        }
    return summary


def bootstrap(ratios: list[float], draws: int = 2000) -> tuple[float, float]:
    """95 % interval of the median."""
    rng = random.Random(0)
    medians = sorted(
        statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(draws)
    )
    return medians[draws // 40], medians[-draws // 40]


def environment(device: torch.device) -> dict[str, Any]:
    """What a reader needs to judge the figures."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    program = f"benchmarks.{Path(sys.argv[0]).stem}"
    name = platform.processor() or platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {
        "commit": commit,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "trainact": trainact.__version__,
        "python": platform.python_version(),
        "command": " ".join(["python -m", program, *sys.argv[1:]]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/steps.jsonl"))
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for name in arguments.cases:
        seconds = measure(CASES[name], arguments.rounds, device)
        summary = summarise(seconds)
        record = {
            "case": name,
            "rounds": arguments.rounds,
            **environment(device),
            "arms": summary,
            "seconds": seconds,
        }
        with arguments.out.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(f"{name}, {arguments.rounds} rounds, ratio to vanilla")
        for arm, row in summary.items():
            print(
                f"  {arm:14s} {row['ratio_median']:.4f} "
                f"[{row['median_low_95']:.4f}, {row['median_high_95']:.4f}]  "
                f"p25 {row['ratio_p25']:.3f} p75 {row['ratio_p75']:.3f}  "
                f"{row['median_ms']:.0f} ms"
            )


if __name__ == "__main__":
    main()
