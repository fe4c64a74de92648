"""One job: build every arm, check it, then take its times, memory and launches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trainact.lab import environment
from trainact.lab.bench import gate
from trainact.lab.bench.arms import BASELINE, ArmUnavailableError
from trainact.lab.bench.floor import find_floor, measure_ceilings
from trainact.lab.bench.profile import count_launches, peak_bytes
from trainact.lab.bench.records import SKIPPED, WRONG, ArmResult, BenchRecord
from trainact.lab.bench.timing import attempt, choose_calls, describe, interleave
from trainact.lab.bench.workload import (
    Action,
    Job,
    LayerInput,
    Workload,
    capture,
    make_images,
)
from trainact.lab.errors import LabError, first_line

WARM_UP = 2

Say = Callable[[str], object]


@dataclass
class _Entrant:
    """An arm on its way through the measurements; without a workload it is out."""

    arm: str
    workload: Workload | None = None
    values: dict[str, Any] = field(default_factory=dict)

    def fail(self, problem: str) -> None:
        self.values["problem"] = problem
        self.workload = None


def measure(job: Job, device: torch.device, say: Say) -> BenchRecord:
    """Measure all arms of a case in one mode.

    Args:
        job: what to measure.
        device: where.
        say: is told what comes next.

    Returns:
        The record. Arms that fail are in it with the reason.

    Raises:
        LabError: if the case itself cannot be run.
    """
    setting = environment.describe(device)
    say("checking gradients")
    try:
        images = make_images(job, device)
        baseline = Workload(job, BASELINE, device)
        given = capture(baseline, images, job.seed)
        truth = gate.find_truth(given, job.lam)
    except Exception as error:  # a model may raise anything
        raise LabError(f"{job.name} cannot be run: {first_line(error)}") from error
    entrants = [_Entrant(BASELINE, baseline), *_enter_others(job, device)]
    plain_bound = gate.plain_tolerance(job.mode, given.num_rows, device)
    _check(entrants, given, truth, plain_bound)
    say(f"the layer alone, {job.rounds} rounds")
    _measure(entrants, job, "layer", lambda w: partial(w.layer_pass, given), device)
    _count(entrants, given, device)
    if not job.layer_only:
        say(f"whole steps, {job.rounds} rounds")
        _measure(entrants, job, "step", lambda w: partial(w.step, images), device)
    torch.compiler.reset()
    return BenchRecord(
        case=job.case.name,
        axis=job.case.axis,
        value=job.case.value,
        batch=job.batch,
        sample=job.case.sample,
        layer=repr(baseline.plain),
        rows=given.num_rows,
        entries=given.matrix_shape[2],
        mode=job.mode,
        lam=job.lam,
        seed=job.seed,
        rounds=job.rounds,
        arms=tuple(ArmResult(arm=e.arm, **e.values) for e in entrants),
        floor=find_floor(given.x.nbytes, given.num_rows, given.matrix_shape, device),
        ceilings=measure_ceilings(device),
        **setting,
    )


def _enter_others(job: Job, device: torch.device) -> list[_Entrant]:
    entrants: list[_Entrant] = []
    for arm in job.arms:
        if arm == BASELINE:
            continue
        entrant = _Entrant(arm)
        try:
            entrant.workload = Workload(job, arm, device)
        except ArmUnavailableError as error:
            entrant.fail(f"{SKIPPED}: {error}")
        except Exception as error:  # whatever an arm raises is that arm's result
            entrant.fail(describe(error))
        entrants.append(entrant)
    return entrants


def _check(
    entrants: list[_Entrant], given: LayerInput, truth: gate.Truth, plain_bound: float
) -> None:
    """Put the arms that are wrong out of the race."""
    plain_error = 0.0
    for entrant in entrants:
        workload = entrant.workload
        if workload is None:
            continue
        problem = attempt(partial(workload.layer_pass, given))
        grad: Tensor | None = workload.weight.grad
        if problem is not None or grad is None:
            entrant.fail(problem or "the weight got no gradient")
            continue
        error = truth.error(entrant.arm, grad)
        is_plain = entrant.arm == BASELINE
        bound = plain_bound if is_plain else gate.tolerance(entrant.arm, plain_error)
        # A record is JSON, which has no NaN: what is not finite is left out.
        is_finite = error < float("inf")
        entrant.values |= {"error": error if is_finite else None, "tolerance": bound}
        if not error <= bound:
            entrant.fail(f"{WRONG}: error {error:.2g}")
        elif is_plain:
            plain_error = error


def _measure(
    entrants: list[_Entrant],
    job: Job,
    what: str,
    action_of: Callable[[Workload], Action],
    device: torch.device,
) -> None:
    """Times and peak memory of one kind of action, for all arms that are left."""
    actions: dict[str, Action] = {}
    for entrant in entrants:
        if entrant.workload is None:
            continue
        action, clear = action_of(entrant.workload), entrant.workload.clear
        problem = attempt(partial(_warm_up, entrant, what, action, clear, device))
        if problem is not None:
            entrant.fail(problem)
        else:
            actions[entrant.arm] = action
    first = next(iter(actions.values()), None)
    calls = choose_calls(first, device) if first else 1
    seconds, problems = interleave(actions, job.rounds, device, job.seed, calls)
    for entrant in entrants:
        if entrant.arm in seconds:
            entrant.values[f"{what}_s"] = tuple(seconds[entrant.arm])
        elif entrant.arm in problems:
            entrant.fail(problems[entrant.arm])
        if entrant.workload is not None:
            entrant.workload.clear()


def _warm_up(
    entrant: _Entrant, what: str, action: Action, clear: Action, device: torch.device
) -> None:
    for _ in range(WARM_UP):
        action()
    entrant.values[f"{what}_bytes"] = peak_bytes(action, clear, device)


def _count(entrants: list[_Entrant], given: LayerInput, device: torch.device) -> None:
    for entrant in entrants:
        if entrant.workload is not None:
            action = partial(entrant.workload.layer_pass, given)
            entrant.values["launches"] = count_launches(action, device)
