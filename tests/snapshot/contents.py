"""What the snapshot holds: made from today's code, compared with what was committed.

- ``api.txt``: every public name and its signature.
- ``layers.pt``, ``states.pt``: layers and state dicts that an earlier version saved.
- ``curves.json``: 20 losses of each of five networks, one curve for every way of
  training, since all ways are the same training.

``python -m tests.snapshot`` writes names and curves that have changed. Layers and state
dicts are not written again: a later version must read what an earlier one has saved.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import trainact
from trainact import Estimate

HERE = Path(__file__).parent
API, CURVES = HERE / "api.txt", HERE / "curves.json"
LAYERS, STATES = HERE / "layers.pt", HERE / "states.pt"

MODULES = (
    "trainact",
    "trainact.diagnostics",
    "trainact.functional",
    "trainact.integrations.lightning",
    "trainact.integrations.transformers",
    "trainact.kernels",
    "trainact.reference",
)
JAX_MODULES = (
    "trainact.jax",
    "trainact.jax.equinox",
    "trainact.jax.linen",
    "trainact.jax.nnx",
)


def api(modules: tuple[str, ...]) -> list[str]:
    """Every public name of the modules with its signature, a line each."""
    return sorted(line for name in modules for line in _names(name))


def api_changes(modules: tuple[str, ...]) -> set[str]:
    """The lines that are committed alone, or found alone."""
    is_jax = modules is JAX_MODULES
    committed = {
        line
        for line in API.read_text().splitlines()
        if line.startswith("trainact.jax") == is_jax
    }
    return committed ^ set(api(modules))


def _names(module_name: str) -> Iterator[str]:
    module = importlib.import_module(module_name)
    defined = [name for name, value in vars(module).items() if _is_of(value, module)]
    for name in getattr(module, "__all__", defined):
        value, path = getattr(module, name), f"{module_name}.{name}"
        if inspect.isclass(value):
            members = _members(value)
            yield path + _signature(members.pop("__init__", None))
            for member in members:
                yield f"{path}.{member}{_signature(members[member])}"
        elif not inspect.ismodule(value):
            yield path + _signature(value)


def _is_of(value: Any, module: Any) -> bool:
    is_named = inspect.isclass(value) or inspect.isfunction(value)
    own = is_named and value.__module__ == module.__name__
    return own and not value.__name__.startswith("_")


def _members(cls: type) -> dict[str, Any]:
    """Methods and properties that trainact defines; others change with torch's."""
    ours = [one for one in cls.__mro__ if one.__module__.startswith("trainact")]
    return {
        name: value
        for one in reversed(ours)
        for name, value in vars(one).items()
        if name == "__init__" or not name.startswith("_")
        if inspect.isfunction(value) or inspect.isdatadescriptor(value)
    }


def _signature(value: Any) -> str:
    if not inspect.isroutine(value):
        return ""
    signature = inspect.signature(value)
    # Our annotations are strings; Equinox makes constructors with its own.
    types = [parameter.annotation for parameter in signature.parameters.values()]
    if not all(isinstance(one, str) or one is inspect.Parameter.empty for one in types):
        return ""
    return re.sub(r" at 0x[0-9a-f]+", "", str(signature))


def waves(*shape: int, phase: float = 0.0) -> Tensor:
    """Numbers of unit scale that no generator has to repeat."""
    steps = torch.arange(math.prod(shape), dtype=torch.float64)
    return (1.4 * torch.sin(steps * steps * 0.37 + steps + phase)).reshape(shape)


def set_weights(module: nn.Module) -> nn.Module:
    """The same weights for every version of PyTorch's initialisation."""
    with torch.no_grad():
        for phase, parameter in enumerate(module.double().parameters()):
            fan_in = max(1, parameter[0].numel()) if parameter.ndim > 1 else 100
            values = waves(*parameter.shape, phase=float(phase)) / math.sqrt(fan_in)
            parameter.copy_(values)
    return module


class Standardised(nn.Linear):
    """A layer of a class of its own."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean(1, keepdim=True)
        return F.linear(x, weight, self.bias)


Made = dict[str, tuple[nn.Module, Tensor]]


def layers() -> Made:
    """Each kind of layer under TrAct that can be pickled, and an input."""
    linear, conv = (lambda: nn.Linear(3, 2)), (lambda: nn.Conv2d(2, 2, 2, groups=2))
    rows, images = waves(5, 3), waves(2, 2, 3, 3)
    model = nn.Sequential(nn.Conv2d(2, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1))
    made: Made = {
        "linear": (trainact.TrAct(linear()), rows),
        "conv1d": (trainact.TrAct(nn.Conv1d(2, 2, 2, padding=1), 0.2), waves(2, 2, 4)),
        "conv2d": (trainact.TrAct(conv()), images),
        "conv3d": (trainact.TrAct(nn.Conv3d(1, 1, 2)), waves(1, 1, 3, 3, 2)),
        "relative": (trainact.TrAct(conv(), relative=True), images),
        "estimate": (trainact.TrAct(linear(), estimate=Estimate(decay=0.5)), rows),
        "sync": (trainact.TrAct(linear(), sync=True), rows),
        "subclass": (trainact.TrAct(Standardised(3, 2)), rows),
        "model": (trainact.apply(model), images),
    }
    return {name: (set_weights(layer), x) for name, (layer, x) in made.items()}


def parametrised() -> Made:
    """Further ones of which PyTorch saves the state dict alone."""
    layer = trainact.TrAct(parametrizations.weight_norm(nn.Linear(3, 2)))
    return {"weight norm": (set_weights(layer), waves(5, 3))}


def response(layer: nn.Module, x: Tensor) -> Tensor:
    """The output, and the gradients of a loss that weighs every entry differently."""
    layer.zero_grad()
    z = layer(x)
    z.backward(waves(*z.shape, phase=2.0))
    gradients = [p.grad.flatten() for p in layer.parameters()]
    return torch.cat([z.detach().flatten(), *gradients])


class PatchTransformer(nn.Module):
    """A ViT of one block on patches of 4 x 4."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, stride=4)
        self.block = nn.TransformerEncoderLayer(
            8, 2, 16, dropout=0.0, batch_first=True, norm_first=True
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        return self.head(self.block(tokens).mean(1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "cnn": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(144, 3)
        ),
        (3, 6, 6),
    ),
    "vit": (PatchTransformer, (3, 8, 8)),
    "mlp": (
        lambda: nn.Sequential(nn.Linear(20, 8), nn.Tanh(), nn.Linear(8, 3)),
        (20,),
    ),
    "volumes": (
        lambda: nn.Sequential(
            nn.Conv3d(2, 4, (2, 3, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)
        ),
        (2, 3, 5, 5),
    ),
    "stem": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 7, stride=2, padding=3, bias=False),
            nn.GroupNorm(2, 4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(36, 3),
        ),
        (3, 12, 12),
    ),
}
STEPS, BATCH, RATE, MOMENTUM = 20, 8, 0.05, 0.9


def network(name: str, **settings: Any) -> nn.Module:
    """A network under TrAct, in float64."""
    return trainact.apply(set_weights(NETWORKS[name][0]()), **settings)


def batch(name: str) -> tuple[Tensor, Tensor]:
    """The images of every step, and their labels."""
    return waves(BATCH, *NETWORKS[name][1]), torch.arange(BATCH) % 3


def backward(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    return loss.detach()


def curve(
    name: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    backward: Callable[[nn.Module, Tensor, Tensor], Tensor] = backward,
) -> list[float]:
    """Losses of 20 steps on one batch."""
    losses = []
    for _ in range(STEPS):
        losses.append(backward(model, *batch(name)).item())
        optimizer.step()
        optimizer.zero_grad()
    return losses


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)


def largest_change(name: str, losses: list[float]) -> float:
    """The largest relative change of a loss of the committed curve."""
    committed = json.loads(CURVES.read_text())[name]
    pairs = zip(losses, committed, strict=True)
    return max(abs(loss - before) / before for loss, before in pairs)
