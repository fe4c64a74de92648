"""What TrAct adds on several ranks: networks on shapes alone, counts, bytes, times.

    python -m benchmarks.scaling [--parts 4] --out records/benchmarks/scaling-cpu.jsonl

Ranks are gloo processes of this machine, one thread each; with more ranks than cores
they take turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import trainact
from benchmarks.counting import counted, predicted, read_stem, waited_seconds
from benchmarks.output import write_records
from benchmarks.scaling_models import measure, networks
from tests.distributed.processes import run
from trainact.lab.bench.timing import interleave
from trainact.lab.environment import describe

CPU = torch.device("cpu")
RANKS = (1, 2, 3)
SENT_BYTES = 8 * 768**2
SENDINGS = 10
SETTLE_S = 0.2  # until the kernel has counted what was sent

# Rounds of one set of processes, which must be done within a minute.
PART_ROUNDS = 4

Build = Callable[[], nn.Module]


def conv2d(*args: Any, **kwargs: Any) -> Build:
    return lambda: nn.Conv2d(*args, **kwargs)


def conv3d(*args: Any, **kwargs: Any) -> Build:
    return lambda: nn.Conv3d(*args, **kwargs)


# Layer and input of each rank.
STEMS: dict[str, tuple[Build, tuple[int, ...]]] = {
    "ResNet 7x7/2": (conv2d(3, 64, 7, 2, 3), (1, 3, 224, 224)),
    "ViT-S/16, 4 images": (conv2d(3, 384, 16, 16), (4, 3, 224, 224)),
    "ViT-S/16, 1 image": (conv2d(3, 384, 16, 16), (1, 3, 224, 224)),
    "R3D 3x7x7": (conv3d(3, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3)), (1, 3, 8, 112, 112)),
    "tubelets 2x16x16, 1 clip": (
        conv3d(3, 192, (2, 16, 16), (2, 16, 16)),
        (1, 3, 16, 112, 112),
    ),
    "tubelets 2x16x16, 3 clips": (
        conv3d(3, 192, (2, 16, 16), (2, 16, 16)),
        (3, 3, 16, 112, 112),
    ),
    "UNETR 16x16x16": (conv3d(1, 192, 16, 16), (1, 1, 96, 96, 96)),
    "nnU-Net 3x3x3, 1 channel": (conv3d(1, 32, 3, padding=1), (1, 1, 48, 48, 48)),
    "nnU-Net 3x3x3, 4 channels": (conv3d(4, 32, 3, padding=1), (1, 4, 48, 48, 48)),
    "4 groups, 5x5/2": (conv2d(12, 32, 5, 2, 2, groups=4), (2, 12, 96, 96)),
}


def counts() -> dict[str, Any]:
    """On one rank: what was counted for each stem, and what the formulas say."""
    ranks = dist.get_world_size()
    found: dict[str, Any] = {}
    for name, (build, shape) in STEMS.items():
        layer, x = build(), torch.randn(shape)
        rows = read_stem(layer, x).rows
        found[name] = {
            "rows": rows,
            "measured": counted(layer, x, sync=True),
            "predicted": predicted(layer, x, [rows] * ranks),
        }
    return found


def wire() -> list[float]:
    """Bytes over the loopback for each byte of a tensor, per rank and collective."""
    x = torch.ones(SENT_BYTES // 8, dtype=torch.float64)
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    actions = (lambda: dist.all_reduce(x), lambda: dist.all_gather(parts, x))
    ratios: list[float] = []
    for action in actions:
        action()
        dist.barrier()
        time.sleep(SETTLE_S)
        before = loopback_bytes()
        for _ in range(SENDINGS):
            action()
        dist.barrier()
        time.sleep(SETTLE_S)
        sent = (loopback_bytes() - before) / dist.get_world_size()
        ratios.append(sent / SENDINGS / SENT_BYTES)
    return ratios


def loopback_bytes() -> int:
    """Received since the machine started, by Linux's count."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, values = line.partition(":")
        if name.strip() == "lo":
            return int(values.split()[0])
    raise SystemExit("/proc/net/dev lists no loopback")


def resnet18() -> nn.Module:
    from torchvision import models

    return models.resnet18()


def vit_tiny() -> nn.Module:
    import timm

    return timm.create_model("vit_tiny_patch16_224", depth=4)


class Volumes(nn.Module):
    """Four blocks over 16x16x16 patches of a 96x96x96 volume."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv3d(1, 192, 16, 16)
        block = nn.TransformerEncoderLayer(192, 3, 768, 0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(block, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.embed(x).flatten(2).mT)


# Network, its first layer, and the input of each rank.
STEPS: dict[str, tuple[Build, str, tuple[int, ...]]] = {
    "ResNet-18, 2 images of 112 px": (resnet18, "conv1", (2, 3, 112, 112)),
    "ViT-Ti/16 of 4 blocks, 4 images": (vit_tiny, "patch_embed.proj", (4, 3, 224, 224)),
    "ViT of 16x16x16 patches, 1 volume": (Volumes, "embed", (1, 1, 96, 96, 96)),
}
ARMS: dict[str, bool | None] = {"vanilla": None, "own": False, "shared": True}


def step_times(name: str, part: int) -> dict[str, Any]:
    """On one rank: seconds of forward and backward under DDP, for each arm.

    And of those with shared statistics how many were spent in their collectives.
    """
    build, layer, shape = STEPS[name]
    x = torch.randn(shape)
    actions: dict[str, Callable[[], Any]] = {}
    waited: list[float] = []
    for arm, sync in ARMS.items():
        torch.manual_seed(0)
        model = build()
        if sync is not None:
            trainact.apply(model, layer=layer, sync=sync)
        wrapped = DistributedDataParallel(model)

        def action(wrapped: nn.Module = wrapped, sync: bool | None = sync) -> None:
            dist.barrier()
            wrapped.zero_grad()
            with waited_seconds() as waits:
                wrapped(x).square().mean().backward()
            if sync:
                waited.append(sum(waits))

        action()
        actions[arm] = action
    waited.clear()
    seconds, problems = interleave(actions, PART_ROUNDS, CPU, seed=part)
    if problems:
        raise RuntimeError(str(problems))
    return {"seconds": seconds, "waited": waited}


def all_times(name: str, ranks: int, parts: int) -> dict[str, Any]:
    """The times of a step that ends when the last rank is done, in several parts."""
    seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
    waits: list[tuple[float, ...]] = []
    for part in range(parts):
        found = run(ranks, step_times, name, part)
        for arm in ARMS:
            of_ranks = zip(*(r["seconds"][arm] for r in found), strict=True)
            seconds[arm] += map(max, of_ranks)
        waits += zip(*(r["waited"] for r in found), strict=True)
    return {
        "kind": "time",
        "model": name,
        "ranks": ranks,
        "seconds": seconds,
        "least_waited": list(map(min, waits)),
        "most_waited": list(map(max, waits)),
    }


def records(parts: int) -> Iterator[dict[str, Any]]:
    """Everything that the page shows."""
    for network in networks():
        yield measure(network)
    for ranks in RANKS:
        found = run(ranks, counts)
        for name in STEMS:
            ours = [of_rank[name] for of_rank in found]
            yield {"kind": "counts", "stem": name, "ranks": ranks, "by_rank": ours}
        if ranks > 1:
            reduced, gathered = run(ranks, wire)[0]
            yield {
                "kind": "wire",
                "ranks": ranks,
                "bytes": SENT_BYTES,
                "all_reduce": reduced,
                "all_gather": gathered,
            }
        for name in STEPS:
            yield all_times(name, ranks, parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=int, default=4)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    origin = describe(CPU)
    found: list[dict[str, Any]] = []
    for record in records(options.parts):
        print(record["kind"], *list(record.values())[1:3], flush=True)
        found.append({**record, **origin})
    write_records(found, options.out)


if __name__ == "__main__":
    main()
