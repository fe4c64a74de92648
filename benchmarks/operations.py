"""Timing of single operations on a device, interleaved and gated by their errors."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Run = Callable[[], Tensor]


def timed(run: Run, device: torch.device) -> float:
    """Milliseconds between two events on the device."""
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - start)
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    run()
    last.record()
    last.synchronize()
    return first.elapsed_time(last)


def profiled(run: Run, device: torch.device) -> dict[str, Any]:
    """Launches of one run, and milliseconds that the device was busy with them."""
    if device.type != "cuda":
        return {"launches": None, "device_ms": None}
    activities = [torch.profiler.ProfilerActivity.CUDA]
    profiler: Any = torch.profiler.profile(activities=activities)
    with profiler:
        run()
        torch.cuda.synchronize()
    events = [e for e in profiler.events() if e.device_type.name == "CUDA"]
    busy = sum(event.time_range.elapsed_us() for event in events)
    return {"launches": len(events), "device_ms": busy / 1e3}


def interleaved(
    candidates: dict[str, Run], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Milliseconds of every round and candidate; all have run before, for the error."""
    order = random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name in order.sample(list(candidates), len(candidates)):
            times[name].append(timed(candidates[name], device))
    return times


def compare(
    candidates: dict[str, Run],
    error_of: Callable[[Tensor], float],
    tolerance: float,
    rounds: int,
    device: torch.device,
) -> Iterator[dict[str, Any]]:
    """Errors of all candidates; times of those that are right."""
    errors = {name: error_of(run()) for name, run in candidates.items()}
    right = {n: run for n, run in candidates.items() if errors[n] <= tolerance}
    times = interleaved(right, rounds, device)
    for name, error in errors.items():
        record: dict[str, Any] = {"candidate": name, "error": error}
        record["tolerance"] = tolerance
        if name in right:
            quartiles = statistics.quantiles(times[name], n=4, method="inclusive")
            record["ms"] = dict(zip(("p25", "median", "p75"), quartiles, strict=True))
            record.update(profiled(right[name], device))
        else:
            record["refused"] = "the error is beyond the tolerance"
        yield record


@dataclass(frozen=True)
class Ceilings:
    """What the device can do, measured: bytes and multiply-adds a second."""

    bytes_per_second: float
    products_per_second: dict[str, float]


def measure_ceilings(
    device: torch.device, dtypes: dict[str, torch.dtype], small: bool
) -> Ceilings:
    """Bandwidth of a copy; rate of a large matrix product of each dtype."""
    source = torch.empty(2**16 if small else 2**30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = least_seconds(lambda: target.copy_(source), device)
    size = 64 if small else 8192
    rates: dict[str, float] = {}
    for name, dtype in dtypes.items():
        a = torch.ones(size, size, device=device, dtype=dtype)
        rates[name] = size**3 / least_seconds(lambda a=a: a @ a, device)
    return Ceilings(2 * source.numel() / seconds, rates)


def least_seconds(run: Run, device: torch.device) -> float:
    return min(timed(run, device) for _ in range(10)) / 1e3
