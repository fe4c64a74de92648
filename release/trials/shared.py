"""What the trials share. They run with an installed wheel, without the checkout."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

BEFORE = frozenset(sys.modules)
# Not by a statement, which would stand above: what it adds is looked at. Its modules
# are loaded when its names are used, so all are.
trainact = import_module("trainact")
for name in trainact.__all__:
    getattr(trainact, name)
ADDED = frozenset(sys.modules) - BEFORE

# Two float64 routes to one answer, as in the tests (ORACLE_RTOL there).
BOUND = 1e-10

# What each extra is for; everything else is the core's.
PREFIXES = {
    "lab": (
        "trainact.lab",
        "trainact.integrations.lightning",
        "trainact.integrations.pytorch_lightning",
    ),
    "jax": ("trainact.jax",),
    "zoo": ("trainact.integrations.transformers",),
}
# They are the commands themselves.
NOT_IMPORTED = ("trainact.__main__", "trainact.lab.bench.__main__")


def module_names() -> list[str]:
    """List the modules of the installed package by its files: nothing is imported."""
    package = Path(trainact.__path__[0])
    names = [
        ".".join(("trainact", *path.relative_to(package).with_suffix("").parts))
        for path in sorted(package.rglob("*.py"))
    ]
    return [name.removesuffix(".__init__") for name in names]


def extra_of(name: str) -> str:
    """Say which extra a module needs; an empty string if none."""
    for extra, prefixes in PREFIXES.items():
        if any(name == p or name.startswith(f"{p}.") for p in prefixes):
            return extra
    return ""


def import_all(extra: str) -> None:
    """Import every module of an extra, or of the core."""
    names = [name for name in module_names() if extra_of(name) == extra]
    names = [name for name in names if name not in NOT_IMPORTED]
    if not names:
        raise AssertionError(f"no module of {extra or 'the core'} is installed")
    for name in names:
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            if error.name != "triton":  # comes with torch, but not everywhere
                raise
    print(f"{len(names)} modules of {extra or 'the core'} imported")


def adds_its_own_alone() -> None:
    """Using trainact adds no module that `import torch` has not imported already.

    So not the compiler (torch._dynamo), FSDP, Triton, SciPy, or what else is heavy.
    """
    foreign = sorted(m for m in ADDED if m.partition(".")[0] != "trainact")
    if foreign or "trainact.layers" not in ADDED:
        raise AssertionError(f"trainact imports {len(foreign)} more: {foreign}")
    print(f"{len(ADDED)} modules imported by using trainact, all its own")


def absent(*names: str) -> None:
    """Make sure that other extras' packages did not come along."""
    present = [name for name in names if find_spec(name)]
    if present:
        raise AssertionError(f"{', '.join(present)}: not asked for, but installed")


def agree(what: str, value: object, truth: object) -> None:
    """Compare with the oracle, in float64."""
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    value_64 = np.asarray(value, dtype=np.float64)
    truth_64 = np.asarray(truth, dtype=np.float64)
    error = np.linalg.norm(value_64 - truth_64) / np.linalg.norm(truth_64)
    if not error <= BOUND:
        raise AssertionError(f"{what}: relative error {error:.1e}, over {BOUND:.0e}")
    print(f"{what}: relative error {error:.1e}")
