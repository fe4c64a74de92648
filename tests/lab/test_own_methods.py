"""A method of one's own is named as PACKAGE.MODULE:NAME, and nothing else changes."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.lab.applied import settings_for
from tests.lab.conftest import CONFIG, TINY, Cli
from trainact.lab import methods
from trainact.lab.errors import LabError
from trainact.lab.methods import METHODS, find_method
from trainact.lab.models import build_model
from trainact.lab.optimizers import ChainedOptimizer
from trainact.lab.reporting.reading import read_runs

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
    assert same.uses_lam
    settings = settings_for(torch.randn(2, 3, 16, 16))
    model = original.convert(build_model("small-cnn", (3, 16, 16), 5), settings)
    made = [type(method.optimizer(model, CONFIG)) for method in (same, original)]
    assert made == [ChainedOptimizer, ChainedOptimizer]


def test_edited_code_is_another_method(
    own_module: Callable[[str, str], None], tmp_path: Path, compare: Cli
) -> None:
    """Whether the module itself is edited, or one that it takes something from."""
    path = tmp_path / "out" / "records.jsonl"
    method = "from helper import f\nfrom trainact.lab.methods import Method\n{}"
    method += 'M = Method("m", uses_lam=False, convert=f)\n'
    helper = "import torch\ndef f(model, settings):\n    return model{}\n"
    options = (*TINY, "--methods", "vanilla", "mine:M", "--seeds")
    codes = [("", ""), ("# edited\n", ""), ("# edited\n", " # edited"), ("", "")]
    for number, (in_module, in_helper) in enumerate(codes):
        own_module("mine", method.format(in_module))
        own_module("helper", helper.format(in_helper))
        for seeds, trained in ((("0", "1"), 4 if number == 0 else 2), (("0",), 0)):
            for name in ("mine", "helper"):
                sys.modules.pop(name, None)
            importlib.invalidate_caches()
            methods._code.clear()  # as in a new process
            before = path.read_text().count("\n") if path.exists() else 0
            assert compare(*options, *seeds).code == 0
            is_known = number == 3
            added = path.read_text().count("\n") - before
            assert added == (0 if is_known else trained)
    records, warnings = read_runs([path])
    assert len(records) == 4, "two seeds of each"
    assert len(warnings) == 4
    assert "mine:M was changed since" in warnings[0]


FAILING = """
import sys
from torch import nn
from trainact.lab.methods import Method

def fails(model, settings): raise KeyError("depth")
def leaves(model, settings): sys.exit(7)
def refuses(model, settings): raise ValueError("no such layer")
def gives_nothing(model, settings): pass
def same(model, settings): return model

class Failing(nn.Module):
    calls = 0
    def __init__(self, model, at, error):
        super().__init__()
        self.model, self.at, self.error = model, at, error
    def forward(self, x):
        Failing.calls += 1
        if Failing.calls >= self.at: raise self.error
        return self.model(x)

def at_once(model, settings): return Failing(model, 1, KeyError("depth"))
def later(model, settings): return Failing(model, 4, RuntimeError("depth"))
def leaves_later(model, settings): return Failing(model, 4, SystemExit(0))

FAILS = Method("m", False, fails)
LEAVES = Method("m", False, leaves)
REFUSES = Method("m", False, refuses)
NOTHING = Method("m", False, gives_nothing)
NO_FUNCTION = Method("m", False, "convert")
AT_ONCE = Method("m", False, at_once)
LATER = Method("m", False, later)
LEAVES_LATER = Method("m", False, leaves_later)
NO_OPTIMIZER = Method("m", False, same, optimizer=gives_nothing)
FAILING_OPTIMIZER = Method("m", False, same, optimizer=fails)
"""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("FAILS", "method failing:FAILS: KeyError: 'depth' (in failing.py, line 6)"),
        ("LEAVES", "method failing:LEAVES: SystemExit: 7 (in failing.py, line 7)"),
        ("REFUSES", "ValueError: no such layer (in failing.py, line 8)"),
        ("NOTHING", "method failing:NOTHING returned NoneType where Module is needed"),
        ("NO_FUNCTION", "'str' object is not callable"),
        ("AT_ONCE", "(KeyError: 'depth' (in failing.py, line 19))"),
        (
            "LATER",
            "failing:LATER, seed 0: RuntimeError: depth (in failing.py, line 19)",
        ),
        ("LEAVES_LATER", "seed 0: SystemExit: 0 (in failing.py, line 19)"),
        ("NO_OPTIMIZER", "returned NoneType where Optimizer is needed"),
        ("FAILING_OPTIMIZER", "KeyError: 'depth' (in failing.py, line 6)"),
    ],
)
def test_a_method_that_fails_is_one_line(
    own_module: Callable[[str, str], None],
    compare: Cli,
    tmp_path: Path,
    name: str,
    says: str,
) -> None:
    own_module("failing", FAILING)
    assert compare(*TINY, "--methods", "vanilla", "--seeds", "0").code == 0
    path = tmp_path / "out" / "records.jsonl"
    before = path.read_bytes()
    outcome = compare(*TINY, "--methods", "vanilla", f"failing:{name}", "--seeds", "0")
    assert outcome.code == 2
    assert says in outcome.err
    assert outcome.err.count("\n") == 1
    assert path.read_bytes() == before
