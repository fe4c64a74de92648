"""Every example runs, learns, and leaves a checkpoint of the plain model."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file

import trainact
from tests.integrations.test_transformers import fresh_accelerator  # noqa: F401

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*_train.py"))
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),
    # timm leaves images open.
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step"),
]


def torch_file(path: Path, key: str) -> dict[str, Any]:
    return torch.load(path, weights_only=False)[key]


# What the example leaves, and how to make the plain model that must take it.
LEFT: dict[str, tuple[Callable[[Path], dict[str, Any]], Callable[[], Any]]] = {
    "timm_train": (
        lambda folder: torch_file(folder / "last.pth.tar", "state_dict"),
        lambda: timm.create_model("resnet10t", num_classes=10),
    ),
    "torchvision_train": (
        lambda folder: torch_file(folder / "checkpoint.pth", "model"),
        lambda: torchvision.models.resnet18(num_classes=10),
    ),
    "lightning_train": (
        lambda folder: {
            name.removeprefix("model."): value
            for name, value in torch_file(folder / "last.ckpt", "state_dict").items()
        },
        lambda: torchvision.models.resnet18(num_classes=10),
    ),
    "accelerate_train": (
        lambda folder: load_file(folder / "model.safetensors"),
        lambda: timm.create_model("resnet10t", num_classes=10),
    ),
}
RESUME = {
    "timm_train": "last.pth.tar",
    "torchvision_train": "checkpoint.pth",
    "lightning_train": "last.ckpt",
}


def run_example(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: Any, *arguments: Any
) -> dict[int, float]:
    """The accuracy after each epoch that it prints."""
    monkeypatch.syspath_prepend(EXAMPLES)
    script = EXAMPLES / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
    runpy.run_path(str(script), run_name="__main__")
    lines = re.findall(
        r"^epoch (\d+): accuracy ([\d.]+) %", capsys.readouterr().out, re.M
    )
    return {int(epoch): float(accuracy) for epoch, accuracy in lines}


@pytest.mark.slow
@pytest.mark.parametrize("name", [script.stem for script in SCRIPTS])
def test_example(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    layers: list[dict[str, Any]] = []
    plain_apply = trainact.apply

    def apply(model: Any, *args: Any, **kwargs: Any) -> Any:
        result = plain_apply(model, *args, **kwargs)
        layers.append(trainact.tract_layers(result))
        return result

    monkeypatch.setattr(trainact, "apply", apply)
    output = ["--output", tmp_path]
    if name in RESUME:
        begun = run_example(name, monkeypatch, capsys, *output, "--epochs", 1)
        assert list(begun) == [0]
        output += ["--resume", tmp_path / RESUME[name]]
    found = run_example(name, monkeypatch, capsys, *output)
    assert [len(one) for one in layers] == [1] * (1 + (name in RESUME))
    assert max(found) == 1
    assert name not in RESUME or list(found) == [1]
    assert found[1] > 40, "chance is 10 %"
    if name in LEFT:
        read, make = LEFT[name]
        make().load_state_dict(read(tmp_path))


@pytest.mark.parametrize("script", SCRIPTS, ids=[script.stem for script in SCRIPTS])
def test_the_change_is_small(script: Path) -> None:
    code = script.read_text().split('"""\n', 1)[1]
    lines = code.splitlines()
    marked = [line for line in lines if "# <- " in line]
    imports = [line for line in lines if re.match(r"(from|import) trainact", line)]
    named = [line for line in lines if re.search("tract|trainact", line.lower())]
    assert 1 <= len(marked) <= 3
    assert len(imports) == 1
    assert set(named) <= {*marked, *imports}
