"""Single layers along one axis at a time: how the extra time grows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from trainact.lab.bench.cases import Case

OUTPUTS = 64
GPU_FACTOR = 16  # a GPU needs larger batches before its time says something

# Rows and entries of a linear layer; batch and kernel size of a convolution.
ROWS = (1024, 2048, 4096, 8192, 16384)
ENTRIES = (48, 96, 192, 384, 768)
BATCHES = (1, 2, 4, 8, 16)
KERNELS = (1, 2, 3, 5, 8)
AXES = ("rows", "entries", "batch", "kernel")


def scaling_cases() -> list[Case]:
    """List the points of all curves.

    Returns:
        Models of one layer, each axis in ascending order.
    """
    return [
        *(_linear("rows", rows, rows, 192) for rows in ROWS),
        *(_linear("entries", entries, 4096, entries) for entries in ENTRIES),
        *(_conv("batch", batch, batch, kernel=7, stride=2) for batch in BATCHES),
        *(_conv("kernel", kernel, 4, kernel, stride=1) for kernel in KERNELS),
    ]


def _linear(axis: str, value: int, rows: int, entries: int) -> Case:
    return _point(axis, value, partial(nn.Linear, entries, OUTPUTS), (entries,), rows)


def _conv(axis: str, value: int, batch: int, kernel: int, stride: int) -> Case:
    build = partial(nn.Conv2d, 3, OUTPUTS, kernel, stride, padding=kernel // 2)
    return _point(axis, value, build, (3, 112, 112), batch)


def _point(
    axis: str,
    value: int,
    build: Callable[[], nn.Module],
    sample: tuple[int, ...],
    batch: int,
) -> Case:
    return Case(
        name=f"{axis}-{value}",
        build=lambda: nn.Sequential(build()),
        layer="0",
        sample=sample,
        batch_gpu=GPU_FACTOR * batch,
        batch_cpu=batch,
        axis=axis,
        value=value,
    )
