"""One arm of one case, ready to run: a whole training step, and the layer alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainact.lab.bench.arms import ARMS
from trainact.lab.bench.cases import Case
from trainact.lab.bench.modes import Mode
from trainact.lab.errors import LabError

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
    """

    x: Tensor
    grad_z: Tensor


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
        self.model = job.mode.lay_out(model.to(device).train())
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
        LabError: if the forward pass does not reach the layer.
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
    with torch.no_grad():
        z = vanilla.call_layer(seen[0])
    generator = torch.Generator().manual_seed(seed)
    grad_z = torch.randn(z.shape, generator=generator)
    return LayerInput(seen[0], torch.empty_like(z).copy_(grad_z))
