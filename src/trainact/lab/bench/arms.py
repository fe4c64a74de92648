"""What is compared: ways of putting TrAct, or nothing, on a model's first layer."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

import trainact
from trainact import kernels
from trainact.geometry import layer_geometry
from trainact.gram.patches import extract_patches
from trainact.lab.bench.options import ARM_NAMES
from trainact.lab.errors import LabError, did_you_mean
from trainact.precision import full_precision

BASELINE = "vanilla"
# Arms whose failure is the measured code's own, not another package's.
MUST_WORK = ("vanilla", "vanilla-again", "trainact")

Treatment = Callable[[nn.Module, str, float], nn.Module]


class ArmUnavailableError(Exception):
    """An arm that cannot be measured on this machine, with the reason."""


class _TimesInverse(torch.autograd.Function):
    """The identity on the weight; the backward is the formula, in float32."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows_GNP: Tensor, lam: float) -> Tensor:
        ctx.save_for_backward(rows_GNP)
        ctx.lam = lam
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grad_outputs
        (rows_GNP,) = ctx.saved_tensors
        with full_precision(grad):
            size = rows_GNP.shape[-1]
            gram_GPP = rows_GNP.mT @ rows_GNP / rows_GNP.shape[-2]
            damped_GPP = gram_GPP + ctx.lam * torch.eye(size, device=grad.device)
            root_GPP, _ = torch.linalg.cholesky_ex(damped_GPP)
            grad_GPO = grad.float().reshape(len(rows_GNP), -1, size).mT
            solved_GPO = torch.cholesky_solve(grad_GPO, root_GPP)
        return solved_GPO.mT.reshape(grad.shape).to(grad.dtype), None, None


class Unfolded(nn.Module):
    """The formula written down plainly: unfold the batch, multiply, factorise, solve.

    Args:
        layer: Linear, Conv1d, Conv2d or Conv3d.
        lam: λ.
    """

    def __init__(self, layer: nn.Module, lam: float) -> None:
        super().__init__()
        self.layer, self.lam = layer, lam

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            x: its input.

        Returns:
            Its output.
        """
        with torch.no_grad():
            rows_GNP = extract_patches(x, layer_geometry(self.layer)).float()
        weight = _TimesInverse.apply(self.layer.weight, rows_GNP, self.lam)
        return functional_call(self.layer, {"weight": weight}, (x,))


def _untouched(model: nn.Module, layer: str, lam: float) -> nn.Module:
    del layer, lam
    return model


def _with_trainact(model: nn.Module, layer: str, lam: float) -> nn.Module:
    return trainact.apply(model, lam=lam, layer=layer)


def _with_peer(model: nn.Module, layer: str, lam: float) -> nn.Module:
    try:
        peer: Any = importlib.import_module("torch_tract")
    except ImportError as error:
        raise ArmUnavailableError("the package torch-tract is not installed") from error
    return _replace(model, layer, lambda plain: peer.TrAct(plain, l=lam))


def _with_unfold(model: nn.Module, layer: str, lam: float) -> nn.Module:
    return _replace(model, layer, lambda plain: Unfolded(plain, lam))


def _with_overlap(model: nn.Module, layer: str, lam: float) -> nn.Module:
    _check_streams()
    model = _with_trainact(model, layer, lam)
    one: Any = model.get_submodule(layer)
    one.overlap = True
    return model


def _with_kernel(model: nn.Module, layer: str, lam: float) -> nn.Module:
    _check_streams()
    model = _with_trainact(model, layer, lam)
    one, chosen = model.get_submodule(layer), contextlib.ExitStack()

    def enter(*_: Any) -> None:
        chosen.enter_context(kernels.use(products="triton"))

    def leave(*_: Any) -> None:
        chosen.close()

    # The choice is the process's, and the other arms are to keep theirs.
    one.register_forward_pre_hook(enter)
    one.register_forward_hook(leave, always_call=True)
    return model


def _check_streams() -> None:
    if not torch.cuda.is_available():
        raise ArmUnavailableError("it needs a CUDA or ROCm device")


def _replace(
    model: nn.Module, layer: str, make: Callable[[nn.Module], nn.Module]
) -> nn.Module:
    parent, _, name = layer.rpartition(".")
    setattr(model.get_submodule(parent), name, make(model.get_submodule(layer)))
    return model


ARMS: dict[str, Treatment] = dict(
    zip(
        ARM_NAMES,
        (
            _untouched,
            _untouched,
            _with_trainact,
            _with_peer,
            _with_unfold,
            _with_overlap,
            _with_kernel,
        ),
        strict=True,
    )
)


def choose_arms(names: tuple[str, ...]) -> tuple[str, ...]:
    """Check the names of arms and put vanilla first, which the others are compared to.

    Args:
        names: as given.

    Returns:
        The names, vanilla among them, in the order of `ARMS`.

    Raises:
        LabError: if there is no arm of a name.
    """
    for name in names:
        if name not in ARMS:
            raise LabError(
                f"arm {name!r} is not known{did_you_mean(name, ARMS)}: give "
                f"{', '.join(ARMS)}"
            )
    return tuple(name for name in ARMS if name in {BASELINE, *names})
