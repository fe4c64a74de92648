"""Small training problems whose batch is dealt out to ranks, and one process on all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import trainact
from trainact.statistics import ranks


class Padding(nn.Conv2d):
    """Of a class of its own: pads one side only, in its forward."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(x, (0, 1, 0, 1)))


FIRST: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(7, 7), (7,)),
    "linear, few rows": (lambda: nn.Linear(60, 6), (60,)),
    "wide linear, few rows": (lambda: nn.Linear(110, 6), (110,)),
    "wide linear, many rows": (lambda: nn.Linear(110, 6), (20, 110)),
    "conv": (lambda: nn.Conv2d(3, 7, 3, stride=2, padding=1), (3, 7, 6)),
    "circular conv": (
        lambda: nn.Conv2d(2, 6, 3, padding=1, padding_mode="circular"),
        (2, 5, 5),
    ),
    "grouped conv": (lambda: nn.Conv2d(4, 6, 3, groups=2, bias=False), (4, 6, 6)),
    "padding conv": (lambda: Padding(3, 6, 3, stride=2), (3, 7, 6)),
    "wide conv, few rows": (lambda: nn.Conv2d(5, 6, 5, stride=5), (5, 10, 5)),
}
ALL = [(kind, dtype) for kind in FIRST for dtype in (torch.float64, torch.float32)]
# In place of trainact's own 1024, so that a layer may be small and above the limit.
MAX_SUMMED_ENTRIES = 64
LAM = 0.1

# Without trainact too: there FSDP2 over gloo does not divide float32 gradients by the
# number of ranks, and clipping rounds the norm of float64 ones to float32.
needs_exact_fsdp2 = pytest.mark.skipif(
    torch.__version__.startswith("2.8."),
    reason="FSDP2 of torch 2.8 is not exact over gloo",
)


def make_model(kind: str, dtype: torch.dtype, **settings: Any) -> nn.Sequential:
    """The same weights in every process; TrAct on the first layer."""
    if dist.is_initialized():  # a rank, whose process ends with the test
        ranks.MAX_SUMMED_ENTRIES = MAX_SUMMED_ENTRIES
    torch.manual_seed(3)
    make, shape = FIRST[kind]
    first = make()
    features = first(torch.zeros(1, *shape)).numel()
    rest = [nn.Tanh(), nn.Flatten(), nn.Linear(features, 2)]
    return trainact.apply(nn.Sequential(first, *rest).to(dtype), LAM, "0", **settings)


def make_batch(
    kind: str, dtype: torch.dtype, sizes: list[int], rank_scale: bool = True
) -> tuple[Tensor, Tensor]:
    """The whole batch; the samples of rank r are scaled by r + 1."""
    generator = torch.Generator().manual_seed(4)
    shape = FIRST[kind][1]
    x = torch.randn(sum(sizes), *shape, generator=generator, dtype=torch.float64)
    if rank_scale:
        scale = torch.cat([torch.full((n,), r + 1.0) for r, n in enumerate(sizes)])
        x *= scale.view(-1, *[1] * len(shape))
    y = torch.randn(sum(sizes), 2, generator=generator, dtype=torch.float64)
    return x.to(dtype), y.to(dtype)


def shard(tensor: Tensor, sizes: list[int]) -> Tensor:
    return tensor.split(sizes)[dist.get_rank()]


def loss_of(model: nn.Module, x: Tensor, y: Tensor, whole: int) -> Tensor:
    """This part's share of the mean over ``whole`` samples."""
    return (model(x) - y).square().sum() / (2 * whole)


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)


def train_alone(
    kind: str,
    dtype: torch.dtype,
    sizes: list[int],
    micro_batches: int = 1,
    steps: int = 5,
    clip: float | None = None,
    **settings: Any,
) -> Tensor:
    """What one process makes of the whole batch: how far the first weight moved."""
    model = make_model(kind, dtype, **settings)
    before = model[0].weight.detach().clone()
    x, y = make_batch(kind, dtype, sizes)
    optimizer = sgd(model)
    for _ in range(steps):
        for part in parts_of(x, sizes, micro_batches):
            loss_of(model, x[part], y[part], len(x)).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
    return model[0].weight.detach() - before


def parts_of(x: Tensor, sizes: list[int], micro_batches: int) -> list[Tensor]:
    """Indices of the k-th micro-batch of every rank, together."""
    shards = torch.arange(len(x)).split(sizes)
    chunks = [indices.tensor_split(micro_batches) for indices in shards]
    return [torch.cat(parts) for parts in zip(*chunks, strict=True)]


@contextmanager
def counted_collectives() -> Iterator[list[str]]:
    """Names of the collectives that TrAct's own code starts meanwhile."""
    calls: list[str] = []
    plain = {name: getattr(dist, name) for name in ("all_reduce", "all_gather")}

    def counting(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return plain[name](*args, **kwargs)

        return call

    for name in plain:
        setattr(dist, name, counting(name))
    try:
        yield calls
    finally:
        for name, function in plain.items():
            setattr(dist, name, function)
