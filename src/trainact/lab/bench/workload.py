"""One arm of one case, ready to run: a whole training step, and the layer alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainact.geometry import Geometry
from trainact.lab.bench.arms import ARMS
from trainact.lab.bench.cases import Case
from trainact.lab.bench.modes import Mode
from trainact.lab.errors import LabError
from trainact.layers.linear_calls import LinearCalls

Action = Callable[[], object]


class _ReachedError(Exception):
    """The first layer has been called: the rest of the model need not run."""


@dataclass(frozen=True)
class Job:
    """What is measured together, in interleaved rounds.

    Attributes:
        case: the model and its input.
        batch: samples per step.
        mode: how it is run.
        arms: what is compared, vanilla among them.
        rounds: measurements per arm.
        layer_only: whether whole steps are left out.
        lam: λ.
        seed: of weights, inputs and the order of the arms.
    """

    case: Case
    batch: int
    mode: Mode
    arms: tuple[str, ...]
    rounds: int
    layer_only: bool = False
    lam: float = 0.1
    seed: int = 0

    @property
    def name(self) -> str:
        """For example ``deit-s-224-b16, eager-fp32``."""
        return f"{self.case.name}-b{self.batch}, {self.mode.name}"


@dataclass(frozen=True)
class LayerInput:
    """What the first layer sees in a step, and a gradient for what it returns.

    Attributes:
        x: its input.
        grad_z: random, in the shape and dtype of its output.
        mapped: what its linear map is given: x itself, or x with a border.
        geometry: of the linear map, or None for a linear layer.
        weight: its weight.
    """

    x: Tensor
    grad_z: Tensor
    mapped: Tensor
    geometry: Geometry
    weight: Tensor

    @property
    def num_rows(self) -> int:
        """Rows of the unfolded batch, the paper's b."""
        return self.geometry.num_rows(self.mapped.shape)

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        """The weight as (groups, outputs of a group, entries)."""
        groups = self.geometry.groups
        outputs = self.weight.shape[0] // groups
        return groups, outputs, self.geometry.num_entries


class Workload:
    """One arm's model, made from the same seed as every other arm's.

    Args:
        job: what is measured.
        arm: name of the arm.
        device: where.
    """

    def __init__(self, job: Job, arm: str, device: torch.device) -> None:
        self._job, self._device = job, device
        torch.manual_seed(job.seed)
        model = job.case.build()
        self.plain = model.get_submodule(job.case.layer)
        self.weight: Any = self.plain.weight
        model = ARMS[arm](model, job.case.layer, job.lam)
        self.model = model.to(device).train()
        for parameter in self.model.parameters():
            parameter.data = job.mode.lay_out(parameter.data)
        self._layer = self.model.get_submodule(job.case.layer)
        self._call_model = job.mode.compile(self.model)
        self._call_layer = job.mode.compile(self._layer)
        self._optimizer = torch.optim.SGD(self.model.parameters(), 1e-3, momentum=0.9)
        self._labels: Tensor | None = None

    def step(self, images: Tensor) -> None:
        """Train by one step: forward, backward, SGD with momentum.

        Args:
            images: the batch.
        """
        self.clear()
        with self._job.mode.autocast(self._device):
            logits = self._call_model(images)
            loss = cross_entropy(logits, self._labels_for(logits))
        loss.backward()
        self._optimizer.step()

    def layer_pass(self, given: LayerInput) -> None:
        """Run the first layer forward and backward.

        Args:
            given: its input and the gradient of its output.
        """
        self.clear()
        z = self.call_layer(given.x)
        torch.autograd.backward(z, given.grad_z.to(z.dtype))

    def call_layer(self, x: Tensor) -> Tensor:
        """Run the first layer forward.

        Args:
            x: its input.

        Returns:
            Its output.
        """
        with self._job.mode.autocast(self._device):
            return self._call_layer(x)

    def clear(self) -> None:
        """Drop the gradients of the step before."""
        self._optimizer.zero_grad(set_to_none=True)

    def _labels_for(self, logits: Tensor) -> Tensor:
        if self._labels is None:
            if logits.ndim != 2:
                raise LabError(
                    f"the model returns {tuple(logits.shape)} where logits of shape "
                    "[batch, classes] are needed: use --layer-only"
                )
            batch, classes = logits.shape
            generator = torch.Generator().manual_seed(self._job.seed)
            labels = torch.randint(classes, (batch,), generator=generator)
            self._labels = labels.to(self._device)
        return self._labels


def make_images(job: Job, device: torch.device) -> Tensor:
    """Draw a batch of standard normal inputs.

    Args:
        job: what is measured.
        device: where.

    Returns:
        ``[batch, *sample]`` in the mode's layout.
    """
    generator = torch.Generator().manual_seed(job.seed)
    images = torch.randn(job.batch, *job.case.sample, generator=generator)
    return job.mode.lay_out(images.to(device))


def capture(vanilla: Workload, images: Tensor, seed: int) -> LayerInput:
    """Take what the first layer is given in a step.

    Args:
        vanilla: the untouched arm.
        images: the batch.
        seed: of the gradient.

    Returns:
        The layer's input and a gradient of its output.

    Raises:
        LabError: if the forward pass does not reach the layer, or what that computes
            is not the product of its input with its weight.
    """
    seen: list[Tensor] = []

    def stop(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0].detach())
        raise _ReachedError

    handle = vanilla.plain.register_forward_pre_hook(stop)
    try:
        with torch.no_grad():
            vanilla.model(images)
    except _ReachedError:
        pass
    finally:
        handle.remove()
    if not seen:
        raise LabError("the forward pass does not call the first layer: see --layer")
    maps: list[tuple[Tensor, Tensor, Geometry]] = []

    def note(weight: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
        maps.append((weight, x, geometry))
        return weight

    with torch.no_grad(), LinearCalls(note):
        vanilla.plain(seen[0])
    if len(maps) != 1 or maps[0][0] is not vanilla.weight:
        raise LabError(
            f"the first layer, a {type(vanilla.plain).__name__}, does not multiply its "
            "input by its own weight once, so bench cannot say what its gradient "
            "should be: measure another --layer"
        )
    with torch.no_grad():
        z = vanilla.call_layer(seen[0])
    generator = torch.Generator().manual_seed(seed)
    grad_z = torch.empty_like(z).copy_(torch.randn(z.shape, generator=generator))
    weight, mapped, geometry = maps[0]
    return LayerInput(seen[0], grad_z, mapped, geometry, weight)
