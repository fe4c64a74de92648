"""Layers and ways of training. A new way is one function and one row of `WAYS`.

A way trains any layer, under TrAct or plain, on one batch and says what came of it. It
is right if the gradient under TrAct is the plain layer's gradient in the same way of
training, times (A + λI)⁻¹ of the input, and if nothing else differs.

`LAYERS` are PyTorch's own layers, `CASES` those and layers of classes of their own.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import trainact
from tests.cases import Case, oracle_rows
from tests.odd import ODD, its_own, raw_weight
from tests.tolerances import FLOAT32_PROMISE, ORACLE_RTOL, low_precision_rtol

LAYERS = {
    "linear": Case("linear", (16, 7), {"in_features": 7, "out_features": 3}),
    "linear, dual": Case("linear", (5, 40), {"in_features": 40, "out_features": 3}),
    "conv1d": Case(
        "conv",
        (3, 2, 12),
        {"in_channels": 2, "out_channels": 4, "kernel_size": (3,), "padding": 1},
    ),
    "conv2d, groups": Case(
        "conv",
        (3, 4, 8, 8),
        {"in_channels": 4, "out_channels": 6, "kernel_size": (3, 3), "groups": 2},
    ),
    "conv2d, reflect": Case(
        "conv",
        (3, 2, 9, 9),
        {
            "in_channels": 2,
            "out_channels": 4,
            "kernel_size": (3, 3),
            "stride": (2, 2),
            "padding": (1, 1),
            "padding_mode": "reflect",
        },
    ),
    "conv2d, dual": Case(
        "conv",
        (2, 3, 8, 8),
        {
            "in_channels": 3,
            "out_channels": 4,
            "kernel_size": (4, 4),
            "stride": (4, 4),
            "bias": False,
        },
    ),
    "conv3d": Case(
        "conv",
        (2, 1, 5, 5, 5),
        {"in_channels": 1, "out_channels": 4, "kernel_size": (3, 3, 3)},
    ),
    "conv3d, circular": Case(
        "conv",
        (2, 2, 4, 4, 4),
        {
            "in_channels": 2,
            "out_channels": 2,
            "kernel_size": (2, 2, 2),
            "padding": "same",
            "padding_mode": "circular",
        },
    ),
}
CASES: dict[str, Case] = LAYERS | ODD
FEW = ("linear", "linear, dual", "conv2d, groups", "conv2d, dual")
# One of each kind: pads by itself, makes another weight (dual, too), is parametrised.
FEW_ODD = ("same conv", "centred linear", "scaled std conv, dual", "weight norm")
# One of each form and kind, for what takes seconds.
FEWEST = ("linear, dual", "conv2d, groups", "centred linear", "weight norm")
VOLUMES = ("conv3d", "conv3d, circular")
IMAGES = tuple(
    name for name, case in CASES.items() if case.kind == "conv" and len(case.shape) == 4
)
# `deferred` refuses the others, whose weight is made of other parameters.
DEFERRABLE = (*LAYERS, *(name for name in ODD if ODD[name].effective is its_own))


class Result(NamedTuple):
    """Of one batch: outputs, their gradient, and the gradients that training sees."""

    z: Tensor
    grad_z: Tensor
    gradients: dict[str, Tensor]

    @property
    def weight(self) -> Tensor:
        """The gradient of the parameter that is or makes the weight."""
        return raw_weight(self.gradients)


@dataclass(frozen=True)
class Way:
    """A way of training.

    Attributes:
        run: trains a layer on one batch.
        dtype: of the model and its input.
        work: in which the plain gradient is computed, if less precise.
        layers: of `CASES`, those that it is tried on.
        settings: of TrAct, beside λ.
        same_forward: whether outputs are bit-identical to the plain layer's.
        view: what the layer is given instead of a batch as it comes.
    """

    run: Callable[[nn.Module, Tensor], Result]
    dtype: torch.dtype = torch.float32
    work: torch.dtype | None = None
    layers: tuple[str, ...] = tuple(CASES)
    settings: dict[str, Any] = field(default_factory=dict)
    same_forward: bool = True
    view: Callable[[Tensor], Tensor] | None = None

    @property
    def relative(self) -> bool:
        return self.settings.get("relative", False)

    @property
    def rtol(self) -> float:
        """To the plain gradient in this way times the oracle's inverse."""
        if self.dtype == torch.float64:
            return ORACLE_RTOL
        if self.dtype == torch.float32:
            return FLOAT32_PROMISE
        return torch.finfo(self.dtype).eps

    @property
    def oracle_rtol(self) -> float:
        """To the oracle, which rounds nothing."""
        return low_precision_rtol(self.work) if self.work else self.rtol


def preconditioned(
    layer: nn.Module,
    x: Tensor,
    grad: Tensor,
    lam: float = 0.1,
    relative: bool = False,
    project: bool = True,
) -> np.ndarray:
    """A gradient times (A + λI)⁻¹ of the input, in float64.

    What an ordinary gradient has outside the span of few rows is its rounding, which
    is left out: λ would amplify it.
    """
    rows_GNP = oracle_rows(layer, x)
    groups, num_rows, size = rows_GNP.shape
    grad_GOP = grad.detach().double().numpy().reshape(groups, -1, size)
    if project and num_rows < size:
        grad_GOP = grad_GOP @ np.linalg.pinv(rows_GNP) @ rows_GNP
    damping = lam * np.ones((groups, 1, 1))
    if relative:
        damping *= np.mean(rows_GNP**2, axis=(1, 2), keepdims=True)
    system = rows_GNP.swapaxes(1, 2) @ rows_GNP / num_rows + damping * np.eye(size)
    solved = np.linalg.solve(system, grad_GOP.swapaxes(1, 2)).swapaxes(1, 2)
    return solved.reshape(grad.shape)


def gradient_like(z: Tensor) -> Tensor:
    """What comes from the rest of the network; the same for the same shape."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(z.shape, generator=generator, dtype=torch.float64).to(z.dtype)


def result(layer: nn.Module, z: Tensor) -> Result:
    """Collect what a backward pass has left."""
    gradients = {name: p.grad for name, p in layer.named_parameters()}
    return from_gradients(z, gradients)


def from_gradients(z: Tensor, gradients: dict[str, Tensor]) -> Result:
    return Result(z.detach(), gradient_like(z), gradients)


def eager(layer: nn.Module, x: Tensor) -> Result:
    z = layer(x)
    z.backward(gradient_like(z))
    return result(layer, z)


def with_loss(layer: nn.Module, x: Tensor) -> Result:
    z = layer(x)
    (z * gradient_like(z)).sum().backward()
    return result(layer, z)


def through(
    call: Callable[[nn.Module, Tensor], Tensor], layer: nn.Module, x: Tensor
) -> Result:
    """Call the layer in some way, differentiate as ever."""
    z = call(layer, x)
    z.backward(gradient_like(z))
    return result(layer, z)


def autocast(layer: nn.Module, x: Tensor, dtype: torch.dtype, inside: bool) -> Result:
    with torch.autocast("cpu", dtype=dtype):
        z = layer(x)
        assert z.dtype == dtype
        if inside:
            z.backward(gradient_like(z))
    if not inside:
        z.backward(gradient_like(z))
    return result(layer, z)


def grad_scaler(layer: nn.Module, x: Tensor) -> Result:
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    with torch.autocast("cpu", dtype=torch.float16):
        z = layer(x)
    scaler.scale((z.float() * gradient_like(z).float()).sum()).backward()
    scaler.unscale_(optimizer)
    return result(layer, z)


def compiled(layer: nn.Module, x: Tensor, **options: Any) -> Result:
    torch._dynamo.reset()
    return through(lambda f, x: torch.compile(f, **options)(x), layer, x)


def compiled_step(layer: nn.Module, x: Tensor) -> Result:
    torch._dynamo.reset()

    @torch.compile(backend="aot_eager", fullgraph=True)
    def loss(x: Tensor, grad_z: Tensor) -> tuple[Tensor, Tensor]:
        z = layer(x)
        return (z * grad_z).sum(), z

    with torch.no_grad():
        grad_z = gradient_like(layer(x))
    value, z = loss(x, grad_z)
    value.backward()
    return result(layer, z)


def functional_loss(
    layer: nn.Module, x: Tensor
) -> tuple[Callable[[Any], tuple[Tensor, Tensor]], dict[str, Tensor]]:
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    with torch.no_grad():
        grad_z = gradient_like(layer(x))

    def loss(parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        z = torch.func.functional_call(layer, parameters, (x,))
        return (z * grad_z).sum(), z

    return loss, parameters


def functional_call(layer: nn.Module, x: Tensor) -> Result:
    loss, parameters = functional_loss(layer, x)
    leaves = {name: p.clone().requires_grad_() for name, p in parameters.items()}
    value, z = loss(leaves)
    value.backward()
    return from_gradients(z, {name: p.grad for name, p in leaves.items()})


def func_grad(layer: nn.Module, x: Tensor) -> Result:
    loss, parameters = functional_loss(layer, x)
    gradients, z = torch.func.grad(loss, has_aux=True)(parameters)
    return from_gradients(z, gradients)


def func_vjp(layer: nn.Module, x: Tensor) -> Result:
    loss, parameters = functional_loss(layer, x)
    _, vjp, z = torch.func.vjp(loss, parameters, has_aux=True)
    return from_gradients(z, vjp(torch.ones((), dtype=x.dtype))[0])


def func_jacrev(layer: nn.Module, x: Tensor) -> Result:
    loss, parameters = functional_loss(layer, x)
    gradients, z = torch.func.jacrev(loss, has_aux=True)(parameters)
    return from_gradients(z, gradients)


def func_jacfwd(layer: nn.Module, x: Tensor) -> Result:
    loss, parameters = functional_loss(layer, x)
    gradients, z = torch.func.jacfwd(loss, has_aux=True)(parameters)
    return from_gradients(z, gradients)


def compiled_func_grad(layer: nn.Module, x: Tensor) -> Result:
    torch._dynamo.reset()
    loss, parameters = functional_loss(layer, x)
    grad = torch.func.grad(loss, has_aux=True)
    gradients, z = torch.compile(grad, backend="aot_eager", fullgraph=True)(parameters)
    return from_gradients(z, gradients)


def ensemble(layer: nn.Module, x: Tensor) -> Result:
    """Three members on one batch; the second is the layer."""
    others = [copy.deepcopy(layer) for _ in range(2)]
    members = [others[0], layer, others[1]]
    stacked, _ = torch.func.stack_module_state(members)
    z = torch.func.vmap(lambda p: torch.func.functional_call(layer, p, (x,)))(stacked)
    (z * gradient_like(z[1])).sum().backward()
    return from_gradients(z[1], {name: p.grad[1] for name, p in stacked.items()})


def per_sample(layer: nn.Module, x: Tensor) -> Result:
    """The batch as the one sample of a batch of samples; more in test_func.py."""
    _, parameters = functional_loss(layer, x)
    with torch.no_grad():
        grad_z = gradient_like(layer(x))

    def loss(p: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.func.functional_call(layer, p, (x,))
        return (z * grad_z).sum(), z

    per = torch.func.vmap(torch.func.grad(loss, has_aux=True), in_dims=(None, 0))
    gradients, z = per(parameters, torch.stack([2 * x, x]))
    return from_gradients(z[1], {name: g[1] for name, g in gradients.items()})


def checkpointed(layer: nn.Module, x: Tensor, reentrant: bool) -> Tensor:
    # The reentrant kind wants an input that requires a gradient.
    leaf = x.clone().requires_grad_() if reentrant else x
    return checkpoint(layer, leaf, use_reentrant=reentrant)


def compiled_checkpoint(layer: nn.Module, x: Tensor) -> Tensor:
    torch._dynamo.reset()
    call = partial(checkpoint, layer, use_reentrant=False)
    return torch.compile(call, backend="aot_eager", fullgraph=True)(x)


def checkpointed_compiled(layer: nn.Module, x: Tensor) -> Tensor:
    torch._dynamo.reset()
    compiled_layer = torch.compile(layer, backend="aot_eager", fullgraph=True)
    return checkpoint(compiled_layer, x, use_reentrant=False)


def offloaded(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.autograd.graph.save_on_cpu():
        return layer(x)


def anomaly_mode(layer: nn.Module, x: Tensor) -> Result:
    with torch.autograd.set_detect_anomaly(True):
        return eager(layer, x)


def other_thread(layer: nn.Module, x: Tensor) -> Result:
    z = layer(x)
    thread = threading.Thread(target=z.backward, args=(gradient_like(z),))
    thread.start()
    thread.join()
    return result(layer, z)


def autograd_grad(layer: nn.Module, x: Tensor) -> Result:
    named = dict(layer.named_parameters())
    z = layer(x)
    gradients = torch.autograd.grad(z, list(named.values()), gradient_like(z))
    return from_gradients(z, dict(zip(named, gradients, strict=True)))


def two_backwards(layer: nn.Module, x: Tensor) -> Result:
    z = layer(x)
    z.backward(gradient_like(z) / 4, retain_graph=True)
    z.backward(gradient_like(z) * 3 / 4)
    return result(layer, z)


def copied_meanwhile(layer: nn.Module, x: Tensor) -> Result:
    z = layer(x)
    twin = copy.deepcopy(layer)
    twin(2 * x).sum().backward()
    z.backward(gradient_like(z))
    return result(layer, z)


def averaged(layer: nn.Module, x: Tensor) -> Result:
    average = torch.optim.swa_utils.AveragedModel(layer)
    average.update_parameters(layer)
    eager(layer, 3 * x)
    average.update_parameters(layer)
    return eager(average.module, x)


def tied(layer: nn.Module, x: Tensor) -> Result:
    """The layer's Parameter in a second layer, which sees nothing here."""
    twin = copy.deepcopy(layer)
    twin.weight = layer.weight
    with torch.no_grad():
        twin(5 * x)
    return eager(layer, x)


def channels_last(layer: nn.Module, x: Tensor) -> Result:
    last = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    return eager(layer.to(memory_format=last), x.to(memory_format=last))


def micro_batches(layer: nn.Module, x: Tensor) -> Result:
    """One sample after the other; under TrAct, deferred to the step."""
    with torch.no_grad():
        z = layer(x)
    grad_z = gradient_like(z)
    parts = [(x, grad_z)]
    if x.ndim >= layer.weight.ndim:  # otherwise it is one sample without a batch
        parts = list(zip(x.split(1), grad_z.split(1), strict=True))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    is_tract = isinstance(layer, trainact.TrActLayer)
    with trainact.deferred(layer, optimizer) if is_tract else nullcontext():
        for part, grad_part in parts:
            layer(part).backward(grad_part)
    return result(layer, z)


def aot_eager(**options: Any) -> Callable[[nn.Module, Tensor], Result]:
    return partial(compiled, backend="aot_eager", fullgraph=True, **options)


BF16, FP16 = torch.bfloat16, torch.float16

WAYS = {
    "float32": Way(eager),
    "float64": Way(eager, dtype=torch.float64),
    "bfloat16 model": Way(eager, dtype=BF16, work=BF16),
    "float16 model": Way(eager, dtype=FP16, work=FP16),
    "autocast bf16, backward inside": Way(
        partial(autocast, dtype=BF16, inside=True), work=BF16
    ),
    "autocast bf16, backward outside": Way(
        partial(autocast, dtype=BF16, inside=False), work=BF16
    ),
    "autocast fp16, backward inside": Way(
        partial(autocast, dtype=FP16, inside=True), work=FP16
    ),
    "autocast fp16, backward outside": Way(
        partial(autocast, dtype=FP16, inside=False), work=FP16
    ),
    "autocast fp16, GradScaler": Way(grad_scaler, work=FP16),
    "a loss": Way(with_loss),
    "autograd.grad": Way(autograd_grad),
    "two backwards of one graph": Way(two_backwards),
    "backward in another thread": Way(other_thread),
    "anomaly mode": Way(anomaly_mode),
    "saved tensors offloaded": Way(partial(through, offloaded)),
    "compile": Way(aot_eager()),
    "compile, dynamic": Way(aot_eager(dynamic=True), layers=FEW + FEW_ODD),
    "compile, whole step": Way(compiled_step, layers=FEWEST),
    "compile of func.grad": Way(compiled_func_grad, layers=FEWEST),
    # Dynamo enters no torch function mode, which a forward of its own needs, inside a
    # checkpoint without breaking the graph there; test_compile.py allows it that.
    "compile of checkpoint": Way(
        partial(through, compiled_checkpoint),
        layers=("linear, dual", "conv2d, groups", "named", "weight norm"),
    ),
    "checkpoint of compile": Way(
        partial(through, checkpointed_compiled), layers=FEWEST
    ),
    "functional_call": Way(functional_call),
    "func.grad": Way(func_grad),
    "func.grad, float64": Way(func_grad, dtype=torch.float64),
    "func.vjp": Way(func_vjp),
    "func.jacrev": Way(func_jacrev),
    # torch has no forward mode for its weight norm
    "func.jacfwd": Way(
        func_jacfwd,
        dtype=torch.float64,
        layers=tuple(name for name in CASES if "weight norm" not in name),
    ),
    "ensemble": Way(ensemble, same_forward=False),
    "vmap of grad": Way(per_sample, same_forward=False),
    "checkpoint, reentrant": Way(
        partial(through, partial(checkpointed, reentrant=True)), dtype=torch.float64
    ),
    "checkpoint, not reentrant": Way(
        partial(through, partial(checkpointed, reentrant=False))
    ),
    "checkpoint_sequential": Way(
        partial(
            through,
            lambda layer, x: checkpoint_sequential(
                nn.Sequential(layer, nn.Identity()), 2, x, use_reentrant=False
            ),
        )
    ),
    "deepcopy between forward and backward": Way(copied_meanwhile),
    "AveragedModel": Way(averaged),
    "tied weight": Way(tied),
    "channels_last": Way(channels_last, layers=IMAGES),
    "channels_last_3d": Way(channels_last, layers=VOLUMES),
    "not contiguous": Way(eager, view=lambda x: torch.stack([x, x], dim=-1)[..., 0]),
    "reversed strides": Way(eager, view=lambda x: x.mT.contiguous().mT),
    # Rows that repeat: in float32 the condition number alone takes a digit and a half.
    "expanded": Way(eager, dtype=torch.float64, view=lambda x: x[:1].expand(x.shape)),
    "deferred": Way(micro_batches, dtype=torch.float64, layers=DEFERRABLE),
    "relative λ": Way(eager, dtype=torch.float64, settings={"relative": True}),
    "relative λ, compile": Way(
        aot_eager(), dtype=torch.float64, layers=FEW, settings={"relative": True}
    ),
    "relative λ, func.grad": Way(
        func_grad, dtype=torch.float64, settings={"relative": True}
    ),
    "relative λ, deferred": Way(
        micro_batches,
        dtype=torch.float64,
        layers=DEFERRABLE,
        settings={"relative": True},
    ),
    "relative λ, estimate": Way(
        eager,
        dtype=torch.float64,
        settings={"relative": True, "estimate": trainact.Estimate(every=2)},
    ),
}
