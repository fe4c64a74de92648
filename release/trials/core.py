"""What the core does where only torch and numpy are installed."""

from __future__ import annotations

import copy
import io
import pickle
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout

import torch
from shared import absent, adds_its_own_alone, agree, import_all
from torch import Tensor, nn

import trainact
from trainact import reference

LAM = 0.1


def imports() -> None:
    """Import every module of the core."""
    adds_its_own_alone()
    absent("jax", "lightning", "scipy", "timm", "torchvision", "transformers", "tyro")
    import_all("")


def smoke() -> None:
    """Train a small network, take it apart and put it together again."""
    torch.manual_seed(0)
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    model = network()
    untouched = copy.deepcopy(model)
    trainact.apply(model, lam=LAM)
    assert isinstance(model[0], trainact.TrActConv2d)
    assert list(model.state_dict()) == list(untouched.state_dict())
    step(model, untouched, images)
    survives_pickling(model, images)
    untouched.load_state_dict(model.state_dict())
    trainact.remove(model)
    assert type(model[0]) is nn.Conv2d
    assert torch.equal(model[0].weight, untouched[0].weight)
    print("state dict, remove: as they should be")
    no_lab()


def network() -> nn.Sequential:
    """Build a small network in float64."""
    layers = nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(5 * 16, 2)).double()


def step(model: nn.Sequential, plain: nn.Sequential, images: Tensor) -> None:
    """One step of SGD; the first layer's is the oracle's, the others' are as ever."""
    pre_activations = plain[0](images)
    pre_activations.retain_grad()
    plain[1:](pre_activations).square().mean().backward()
    grad_z_NO = pre_activations.grad.movedim(1, -1).reshape(-1, 5).numpy()
    borders = [(1, 1), (1, 1)]
    x_NP = reference.unfold(images.numpy(), (3, 3), (2, 2), borders, (1, 1))[0]
    truth = reference.tract_gradient(grad_z_NO, x_NP, LAM)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(images).square().mean().backward()
    optimizer.step()
    pairs = zip(before, model.parameters(), strict=True)
    moved = [(old - new.detach()) / 0.5 for old, new in pairs]
    agree("the first layer's step", moved[0].flatten(1), truth)
    others = zip(moved[1:], list(plain.parameters())[1:], strict=True)
    for change, parameter in others:
        agree("another step", change, parameter.grad)


def survives_pickling(model: nn.Sequential, images: Tensor) -> None:
    """Copies compute the same and stay under TrAct."""
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    copies = {
        "pickle": pickle.loads(pickle.dumps(model)),
        "deepcopy": copy.deepcopy(model),
        "torch.save": torch.load(buffer, weights_only=False),
    }
    for name, other in copies.items():
        assert isinstance(other[0], trainact.TrActConv2d), name
        assert other[0].lam == LAM, name
        assert torch.equal(other(images), model(images)), name
    print(f"{', '.join(copies)}: the copies are the same")


def no_lab() -> None:
    """The command tells its version, and what to install for the rest."""
    code, out, _ = command("--version")
    assert (code, out) == (0, f"trainact {trainact.__version__}\n"), (code, out)
    code, out, errors = command("compare")
    assert (code, out) == (2, ""), (code, out, errors)
    assert "which is not installed: pip install 'trainact[lab]'" in errors, errors
    assert errors.count("\n") == 1, errors
    print(f"compare without the lab: {errors.strip()}")


def command(*arguments: str) -> tuple[object, str, str]:
    """Run ``python -m trainact`` in this process: exit code, output, errors."""
    out, errors = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["trainact", *arguments]
    try:
        with redirect_stdout(out), redirect_stderr(errors):
            runpy.run_module("trainact", run_name="__main__")
    except SystemExit as end:
        return end.code, out.getvalue(), errors.getvalue()
    finally:
        sys.argv = before
    raise AssertionError("the command did not end")


if __name__ == "__main__":
    imports()
    smoke()
