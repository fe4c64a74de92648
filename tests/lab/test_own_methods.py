"""A method of one's own is named as PACKAGE.MODULE:NAME, and nothing else changes."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.lab.applied import settings_for
from trainact.lab.errors import LabError
from trainact.lab.methods import METHODS, find_method
from trainact.lab.models import build_model

DOCS = Path(__file__).parents[2] / "docs" / "methods.md"


@pytest.fixture
def own_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, str], None]]:
    """Writes modules into a fresh working directory; they are forgotten after it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)

    yield write
    for file in tmp_path.glob("*.py"):
        sys.modules.pop(file.stem, None)


def test_the_method_of_the_docs(own_module: Callable[[str, str], None]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    own_module("mine", example)
    method = find_method("mine:FROZEN")
    assert method.name == "mine:FROZEN", "so that a record finds it again"
    assert method.summary == "the first layer stays random"
    model = build_model("small-cnn", (3, 16, 16), 5)
    model = method.convert(model, settings_for(torch.randn(2, 3, 16, 16)))
    fixed = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert fixed == ["conv1.weight", "conv1.bias"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tarct", "is not known (did you mean 'tract'"),
        ("qqq", "or PACKAGE.MODULE:NAME"),
        ("no_such_module:METHOD", "there is no module 'no_such_module'"),
        ("torch.no_such:METHOD", "there is no module 'torch.no_such'"),
        ("torch.nn:METHOD", "has no attribute 'METHOD'"),
        ("torch.nn:Linear", "is of type type, not a trainact.lab.methods.Method"),
        ("yours:METHOD", "there is no module 'no_such_dependency'"),
        ("yours/method.py:METHOD", "write PACKAGE.MODULE:NAME"),
        (":METHOD", "write PACKAGE.MODULE:NAME"),
        (".yours:METHOD", "write PACKAGE.MODULE:NAME"),
        ("yours:", "write PACKAGE.MODULE:NAME"),
    ],
)
def test_methods_that_are_not_there(
    name: str, says: str, own_module: Callable[[str, str], None]
) -> None:
    own_module("yours", "import no_such_dependency")
    with pytest.raises(LabError, match=re.escape(says)) as error:
        find_method(name)
    assert "\n" not in str(error.value)


def test_a_method_keeps_its_own_optimizer(
    own_module: Callable[[str, str], None],
) -> None:
    own_module(
        "theirs",
        "from trainact.lab.methods.apart import TRACT_SGD as SAME\n",
    )
    same, original = find_method("theirs:SAME"), METHODS["tract+sgd"]
    assert same.optimizer is original.optimizer
    assert same.uses_lam
