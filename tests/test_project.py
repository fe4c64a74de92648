"""The project's own promises: imports and names."""

from __future__ import annotations

import importlib.util
import inspect
import pickle
import subprocess
import sys

import pytest
import torch

import trainact


def modules_after(code: str) -> set[str]:
    """Modules that a process of its own has loaded in the end."""
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(result.stdout.split())


def test_importing_the_package_imports_nothing_yet() -> None:
    loaded = modules_after("import trainact")
    assert "trainact" in loaded
    assert not loaded & {"torch", "numpy", "trainact.api", "trainact.damping"}


def test_using_the_core_imports_nothing_more() -> None:
    extras = {
        "accelerate",
        "lightning",
        "pytorch_lightning",
        "transformers",
        "torchvision",
        "timm",
        "sklearn",
        "matplotlib",
        "rich",
        "tyro",
    }
    loaded = modules_after("from trainact import *")
    assert loaded >= {"torch", "trainact.functional", "trainact.layers.plain"}
    assert not loaded & (extras | {"jax", "trainact.lab", "trainact.integrations"})


def test_names_are_found_however_they_are_looked_up() -> None:
    assert set(trainact.__all__) <= set(dir(trainact))
    for name in trainact.__all__:
        public = getattr(trainact, name)
        if inspect.isclass(public) or inspect.isfunction(public):
            assert pickle.loads(pickle.dumps(public)) is public
        # A module of the name would take the place of anything else.
        module = importlib.util.find_spec(f"trainact.{name}")
        assert module is None or public is importlib.import_module(f"trainact.{name}")
    for name in ("integrations", "jax", "layers", "reference"):
        assert inspect.ismodule(getattr(trainact, name))


def test_other_names_are_refused_as_python_does() -> None:
    with pytest.raises(AttributeError) as wanted:
        _ = trainact.functional.aply
    with pytest.raises(AttributeError) as found:
        _ = trainact.aply
    assert str(found.value) == str(wanted.value).replace(
        "trainact.functional", "trainact"
    )
    assert (found.value.name, found.value.obj) == ("aply", trainact)
    assert not hasattr(trainact, "aply")


def test_compiled_code_may_be_the_first_to_use_a_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @torch.compile(fullgraph=True, backend="aot_eager")
    def loss(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return (x @ trainact.functional.precondition(w, x).T).sum()

    monkeypatch.delitem(vars(trainact), "functional")
    w, x = torch.zeros(2, 3, requires_grad=True), torch.randn(8, 3)
    loss(w, x).backward()
    assert w.grad is not None
