"""One way of taking times: interleaved rounds in random order."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable

import torch

from trainact.lab.bench.workload import Action
from trainact.lab.errors import first_line

# A short action is repeated between two looks at the clock.
LEAST_SECONDS = 0.02
MOST_CALLS = 20


def synchronise(device: torch.device) -> None:
    """Wait for the device, so that the clock sees all that was launched.

    Args:
        device: in use.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(action: Action, device: torch.device, calls: int = 1) -> float:
    """Take the time of one action.

    Args:
        action: what to run.
        device: waited for on both sides.
        calls: how often, back to back.

    Returns:
        Seconds for each call.
    """
    synchronise(device)
    start = time.perf_counter()
    for _ in range(calls):
        action()
    synchronise(device)
    return (time.perf_counter() - start) / calls


def choose_calls(action: Action, device: torch.device) -> int:
    """Say how often a short action is repeated for one measurement.

    Args:
        action: warmed up.
        device: where it runs.

    Returns:
        Calls that together take about `LEAST_SECONDS`, at most `MOST_CALLS`.
    """
    seconds = min(timed(action, device) for _ in range(2))
    return max(1, min(MOST_CALLS, math.ceil(LEAST_SECONDS / seconds)))


def attempt(action: Callable[[], object]) -> str | None:
    """Run what may fail in another package's code, and say why it did.

    Args:
        action: what to run.

    Returns:
        None, or the exception in one line.
    """
    try:
        action()
    except Exception as error:  # whatever an arm raises is that arm's result
        return describe(error)
    return None


def describe(error: Exception) -> str:
    """Write down what an arm raised.

    Args:
        error: the exception.

    Returns:
        Its type and the first line of its message.
    """
    return f"{type(error).__name__}: {first_line(error)}"


def interleave(
    actions: dict[str, Action],
    rounds: int,
    device: torch.device,
    seed: int,
    calls: int = 1,
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Run one of each per round, in an order drawn anew.

    What else the machine does hits all of them alike, so that ratios and differences
    within a round are what to look at. An action that raises is left out from then on.

    Args:
        actions: by name, warmed up.
        rounds: measurements of each.
        device: where they run.
        seed: of the order.
        calls: of an action for one measurement.

    Returns:
        (seconds of every round by name, problems by name).
    """
    order = random.Random(seed)
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    problems: dict[str, str] = {}
    for _ in range(rounds):
        for name in order.sample(list(seconds), len(seconds)):
            own, action = seconds[name], actions[name]
            problem = attempt(
                lambda own=own, action=action: own.append(timed(action, device, calls))
            )
            if problem is not None:
                problems[name] = problem
                del seconds[name]
    return seconds, problems
