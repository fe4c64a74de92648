"""What imports what, in processes of their own, and what is documented."""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys

import pytest

import trainact.jax

WITHOUT_TORCH = """
import importlib, pkgutil, sys
import jax, jax.numpy as jnp, trainact.jax
for module in pkgutil.iter_modules(trainact.jax.__path__, "trainact.jax."):
    importlib.import_module(module.name)
x, w = jnp.ones((4, 3)), jnp.ones((3, 2))
assert jax.grad(lambda w: trainact.jax.tract_dense(x, w).sum())(w).shape == w.shape
assert {"flax.nnx", "flax.linen", "equinox"} <= {*sys.modules}
assert "torch" not in sys.modules
"""
WITHOUT_JAX = """
import sys
from trainact import *
assert "jax" not in sys.modules
sys.modules["jax"] = None  # as if it were not installed
import trainact.jax
"""


def run(code: str) -> str:
    """What a process of its own writes to its error stream."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    ).stderr


def test_jax_never_imports_torch() -> None:
    assert run(WITHOUT_TORCH) == ""


def test_jax_is_imported_only_when_asked_for() -> None:
    last = run(WITHOUT_JAX).strip().splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: trainact.jax needs jax")
    assert "pip install 'trainact[jax]'" in last


@pytest.mark.parametrize("name", trainact.jax.__all__)
def test_public_names_are_documented(name: str) -> None:
    public = getattr(trainact.jax, name)
    text = inspect.getdoc(public)
    assert text
    if inspect.isfunction(public):
        assert "Args:" in text
        assert "Returns:" in text
    # A module of the name would take its place.
    assert importlib.util.find_spec(f"trainact.jax.{name}") is None
