"""From options to jobs, with every value checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import torch

from trainact.lab.bench.arms import choose_arms
from trainact.lab.bench.cases import CASES, Case, find_case
from trainact.lab.bench.modes import find_mode
from trainact.lab.bench.options import ARM_NAMES, USUAL_ARMS, BenchOptions
from trainact.lab.bench.scaling import scaling_cases
from trainact.lab.bench.workload import Job
from trainact.lab.errors import LabError, check_positive
from trainact.lab.subject import blank_image, build_named, find_layers

DEFAULT_ROUNDS = 10
OWN_BATCH_GPU = 256
OWN_BATCH_CPU = 16

_SMALL = ("resnet18-cifar", "vit-cifar")
_LARGE = ("resnet50-224", "deit-s-224")
_STEPS = (*_SMALL, *_LARGE, "deit-b-192")
_COMPILED_ARMS = ("vanilla", "vanilla-again", "trainact")


@dataclass(frozen=True)
class Part:
    """Cases that are measured in the same way.

    Attributes:
        cases: what is measured.
        rounds: measurements per arm, unless the user says.
        layer_only: whether whole steps are left out.
        modes: how they are run.
        arms: what is compared.
    """

    cases: tuple[Case, ...]
    rounds: int = DEFAULT_ROUNDS
    layer_only: bool = False
    modes: tuple[str, ...] = ("eager-fp32",)
    arms: tuple[str, ...] = USUAL_ARMS


def _of(names: tuple[str, ...]) -> tuple[Case, ...]:
    return tuple(CASES[name] for name in names)


def _rest(names: tuple[str, ...]) -> tuple[Case, ...]:
    return tuple(case for name, case in CASES.items() if name not in names)


_SCALING = Part(
    tuple(scaling_cases()),
    layer_only=True,
    arms=tuple(arm for arm in USUAL_ARMS if arm != "vanilla-again"),
)

_QUICK = (Part(_of(_SMALL)), Part(_of(("resnet50-224",)), layer_only=True))

# What matters most comes first, since --minutes may end a suite early.
SUITES = {
    "cpu": (
        Part(_of(_SMALL), rounds=30),
        Part(_of(_LARGE), rounds=16),
        Part(_rest((*_SMALL, *_LARGE)), rounds=20, layer_only=True),
        _SCALING,
    ),
    "gpu": (
        Part(
            _of(_STEPS), rounds=20, modes=("eager-fp32", "eager-bf16"), arms=ARM_NAMES
        ),
        Part(_rest(_STEPS), rounds=20, layer_only=True),
        _SCALING,
        Part(_of(_LARGE), rounds=20, modes=("compiled-bf16",), arms=_COMPILED_ARMS),
    ),
}


def plan(options: BenchOptions, device: torch.device) -> list[Job]:
    """List what is to be measured.

    Args:
        options: what the user asked for.
        device: where.

    Returns:
        The jobs, in order.
    """
    _check(options)
    asked = choose_arms(options.arms)
    return [
        Job(
            case=case,
            batch=case.batch_cpu if device.type == "cpu" else case.batch_gpu,
            mode=find_mode(mode, options.channels_last),
            arms=part.arms if options.arms == USUAL_ARMS else asked,
            rounds=options.rounds or part.rounds,
            layer_only=part.layer_only or options.layer_only,
            lam=options.lam,
            seed=options.seed,
        )
        for part in _parts(options)
        for case, mode in product(part.cases, part.modes)
    ]


def _check(options: BenchOptions) -> None:
    for option, value in (
        ("--batch-size", options.batch_size),
        ("--image-size", options.image_size),
        ("--lam", options.lam),
        ("--minutes", options.minutes),
        ("--threads", options.threads),
    ):
        check_positive(option, value)
    if options.rounds is not None and options.rounds < 2:
        raise LabError(f"--rounds {options.rounds}: a spread needs at least 2")
    what = ("cases", "model", "scaling", "suite")
    given = [f"--{name}" for name in what if getattr(options, name)]
    if len(given) > 1:
        raise LabError(f"{' and '.join(given)} say different things: give one of them")
    if options.model is None and (options.layer or options.image_size):
        raise LabError("--layer and --image-size are for --model: cases have their own")
    if options.batch_size and (options.scaling or options.suite):
        raise LabError("--batch-size is for cases and --model: the rest has its own")
    if options.suite and options.modes != BenchOptions.modes:
        raise LabError("--modes is not for --suite, whose cases have their own")


def _parts(options: BenchOptions) -> tuple[Part, ...]:
    batch = options.batch_size
    if options.cases:
        cases = tuple(find_case(text, batch) for text in options.cases)
    elif options.model is not None:
        cases = (_own_case(options.model, options),)
    elif options.scaling:
        return (replace(_SCALING, modes=options.modes),)
    elif options.suite is not None:
        return SUITES[options.suite]
    else:
        return tuple(
            replace(
                part,
                cases=tuple(case.with_batch(batch) for case in part.cases),
                modes=options.modes,
            )
            for part in _QUICK
        )
    return (Part(cases, modes=options.modes),)


def _own_case(name: str, options: BenchOptions) -> Case:
    model, shape = build_named(name, options.image_size)
    layers, _ = find_layers(model, blank_image(shape), name, options.layer)
    if len(layers) > 1:
        raise LabError(
            f"{name} has {len(layers)} first layers ({', '.join(layers)}): choose one "
            "with --layer"
        )
    (layer,) = layers
    return Case(
        name=name,
        build=lambda: build_named(name, options.image_size)[0],
        layer=layer,
        sample=shape,
        batch_gpu=OWN_BATCH_GPU,
        batch_cpu=OWN_BATCH_CPU,
    ).with_batch(options.batch_size)
