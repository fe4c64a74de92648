"""Peak memory and launches of one action, from the allocator's and profiler's books.

On CUDA the caching allocator keeps the peak itself. On a CPU the profiler's record of
every allocation is summed up: on the same machine it gives the same number of bytes
each time, where the resident size of a process depends on what malloc gives back. What
a library takes from malloc behind PyTorch's allocator (oneDNN's and MKL's own scratch
space) is not in it.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from trainact.lab.bench.timing import synchronise
from trainact.lab.bench.workload import Action


def peak_bytes(action: Action, clear: Action, device: torch.device) -> int:
    """Measure by how much memory grows at most while an action runs.

    Args:
        action: warmed up, so that what it keeps between calls exists already.
        clear: drops the gradients of the call before.
        device: where it runs.

    Returns:
        The peak above what was allocated before, in bytes.
    """
    clear()
    if device.type == "cuda":
        synchronise(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        action()
        synchronise(device)
        return torch.cuda.max_memory_allocated(device) - before
    events = _trace(action, profile_memory=True)
    changes = [
        (event["ts"], event["args"]["Bytes"])
        for event in events
        if event.get("name") == "[memory]" and event["args"]["Device Type"] == 0
    ]
    total = peak = 0
    for _, change in sorted(changes, key=lambda timed: timed[0]):
        total += change
        peak = max(peak, total)
    return peak


def count_launches(action: Action, device: torch.device) -> int:
    """Count what an action starts.

    Args:
        action: warmed up.
        device: where it runs.

    Returns:
        On CUDA kernels, copies and fills on the device; elsewhere ATen operators.
    """
    if device.type == "cuda":
        on_device = ("kernel", "gpu_memcpy", "gpu_memset")
        return sum(event.get("cat") in on_device for event in _trace(action, cuda=True))
    events = _trace(action)
    return sum(
        event.get("cat") == "cpu_op" and event["name"].startswith("aten::")
        for event in events
    )


def _trace(
    action: Action, profile_memory: bool = False, cuda: bool = False
) -> list[dict[str, Any]]:
    """The events of one call, in the Chrome trace format."""
    # Otherwise the profiler's library writes its own lines to standard error.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    activities = [ProfilerActivity.CPU]
    if cuda:
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities, profile_memory=profile_memory) as profiler:
        action()
        if cuda:
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
