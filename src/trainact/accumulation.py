"""Gradient accumulation: k micro-batches give the update of the whole batch, exactly.

By default every micro-batch is preconditioned with its own statistics, as in the
paper's code, and the sum of G_k P_k is not the whole batch's gradient times its P.
Inside `deferred` the ordinary gradients add up in ``weight.grad`` and the products of
the rows beside them; (A + λI)⁻¹ is applied once, before the optimizer's step. What that
guards against is in `trainact.statistics.microbatches`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from trainact.api import tract_layers
from trainact.layers.plain import TrActLayer
from trainact.statistics.group import Group
from trainact.statistics.microbatches import Microbatches


class deferred:  # noqa: N801
    r"""Precondition once per optimizer step, with the statistics of all micro-batches.

    For k micro-batches with :math:`X_i` of :math:`b_i` rows and ordinary gradients
    :math:`G_i` the step sees
    :math:`(\sum_i G_i) (\sum_i X_i^\top X_i / \sum_i b_i + \lambda I)^{-1}`.

    The order of a step is: unscale, precondition, clip, step. Preconditioning happens
    by itself at the ``step()`` of any optimizer that holds the weight, also inside a
    wrapper (Lookahead, ZeRO). To clip the norm of what is stepped with, call
    `precondition` on the object of the with block first; so, too, before something that
    uses gradients without a ``step()``, as SAM's first step does.

    What did not come through the layer's calls (the gradient of a penalty on the
    weight, or what ``weight.grad`` held before) stays as it is; where ranks or a
    rescaling have mixed both, an error says so.

    Args:
        model: with layers under TrAct. Under `DistributedDataParallel` or
            ``fully_shard`` pass the wrapped model: the statistics are then summed over
            the ranks whose gradients are averaged.
        optimizer: one, or several; together they hold the weights of the TrAct layers.

    Raises:
        ValueError: if no layer is under TrAct, a weight is not in any optimizer or is
            computed from other parameters, the model is in such a block already, a
            layer has an `Estimate`, or `FullyShardedDataParallel` is in it.

    Examples:
        >>> import torch, trainact
        >>> model = trainact.apply(torch.nn.Sequential(torch.nn.Linear(3, 1)))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> batch = torch.randn(8, 3)
        >>> with trainact.deferred(model, optimizer) as step:
        ...     for part in batch.chunk(4):
        ...         (model(part).square().mean() / 4).backward()
        ...     step.precondition()
        ...     _ = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        ...     optimizer.step()
        ...     optimizer.zero_grad()
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer | Iterable[Optimizer]
    ) -> None:
        given = (optimizer,) if isinstance(optimizer, Optimizer) else optimizer
        self._optimizers = [_unwrap(one) for one in given]
        self._layers = list(tract_layers(model).items())
        if not self._layers:
            msg = "no layer of this model is under TrAct: call trainact.apply first"
            raise ValueError(msg)
        _refuse_fsdp1(model)
        self._model = model
        self._accumulators: list[tuple[TrActLayer, Microbatches]] = []
        self._undo = ExitStack()

    def __enter__(self) -> deferred:
        _refuse_estimates(self._layers)
        made: dict[int, Microbatches] = {}  # tied weights: one gradient, one factor
        accumulators = [(a, self._accumulator(n, a, made)) for n, a in self._layers]
        self._accumulators = accumulators
        with ExitStack() as undo:
            for layer, accumulator in accumulators:
                layer.tract.defer(accumulator)
                undo.callback(layer.tract.undefer)
                undo.callback(accumulator.close)
            # Of all optimizers: the one that steps may be inside the given one.
            undo.callback(register_optimizer_step_pre_hook(self._before_step).remove)
            for optimizer in self._optimizers:
                undo.callback(_also_on_zero_grad(optimizer, self._reset))
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._undo:
            # After the block every gradient is as TrAct leaves it.
            for layer, accumulator in self._accumulators if error is None else ():
                accumulator.finish(layer.tract.damping)

    def precondition(self) -> None:
        """Apply the inverse to the accumulated gradients now, before the step.

        For clipping, after ``scaler.unscale_`` if there is a GradScaler. At the step
        nothing more is done. Every rank must make this call.

        Raises:
            RuntimeError: if ``weight.grad`` is not what was counted.
        """
        _precondition(self._accumulators)

    def _held_by(self, optimizer: Optimizer) -> list[tuple[TrActLayer, Microbatches]]:
        """Layers whose weights an optimizer holds."""
        held = _parameter_ids(optimizer)
        return [pair for pair in self._accumulators if id(pair[1].parameter) in held]

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        held = self._held_by(optimizer)
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if not held:
            return None
        if closure is None:
            _precondition(held)
            return None

        def then_precondition() -> Any:
            loss = closure()
            _precondition(held)
            return loss

        return args[:1], {**kwargs, "closure": then_precondition}

    def _reset(self, optimizer: Optimizer) -> None:
        for _, accumulator in self._held_by(optimizer):
            accumulator.reset()

    def _accumulator(
        self, name: str, layer: TrActLayer, made: dict[int, Microbatches]
    ) -> Microbatches:
        """The accumulator of a layer's weight: one made already, or a new one."""
        if layer.tract.is_deferred:
            msg = f"layer {name!r} is in a trainact.deferred block already"
            raise ValueError(msg)
        weight = dict(layer.named_parameters(recurse=False)).get("weight")
        if weight is None:
            msg = (
                f"the weight of layer {name!r} is computed from other parameters (by a "
                "parametrization or weight norm): the optimizer holds no gradient of "
                "it to precondition at the step. Accumulate without trainact.deferred"
            )
            raise ValueError(msg)
        if not any(id(weight) in _parameter_ids(one) for one in self._optimizers):
            msg = (
                f"the weight of layer {name!r} is not in the given optimizer: pass the "
                "one that trains it (several as a list), and enter the block before "
                "the forward"
            )
            raise ValueError(msg)
        if id(weight) not in made:
            num_groups = getattr(layer, "groups", 1)
            ranks = _ranks(self._model, layer)
            made[id(weight)] = Microbatches(weight, num_groups, ranks)
        return made[id(weight)]


def _parameter_ids(optimizer: Optimizer) -> set[int]:
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def _precondition(accumulators: list[tuple[TrActLayer, Microbatches]]) -> None:
    for layer, accumulator in accumulators:
        accumulator.apply(layer.tract.damping)


def _refuse_estimates(layers: list[tuple[str, TrActLayer]]) -> None:
    for name, layer in layers:
        estimate = layer.tract.estimate
        if estimate is not None:
            msg = (
                f"layer {name!r} has estimate={estimate!r}, but deferred uses "
                "the statistics of the whole batch: set the layer's estimate = None"
            )
            raise ValueError(msg)


def _refuse_fsdp1(model: nn.Module) -> None:
    """Its shards end within a row of the gradient, where no inverse can be applied."""
    if not dist.is_available():
        return
    from torch.distributed.fsdp import FullyShardedDataParallel

    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        msg = (
            "trainact.deferred cannot precondition the flattened shards of "
            "FullyShardedDataParallel (FSDP1): shard with fully_shard (FSDP2), or let "
            "each micro-batch have its own statistics"
        )
        raise ValueError(msg)


def _unwrap(optimizer: Optimizer) -> Optimizer:
    """The optimizer in Accelerate's wrapper, which passes on few zero_grad calls."""
    inner = getattr(optimizer, "optimizer", None)
    return _unwrap(inner) if isinstance(inner, Optimizer) else optimizer


def _ranks(model: nn.Module, layer: TrActLayer) -> list[Group]:
    """Ranks whose gradients are averaged, so that their statistics belong together."""
    if isinstance(model, DistributedDataParallel):
        return [Group(model.process_group)]
    mesh = getattr(layer.weight, "device_mesh", None)
    if mesh is not None:
        return [Group(mesh.get_group(dim)) for dim in range(mesh.ndim)]
    own = layer.tract.group
    return [] if own is None or own.is_alone() else [own]


def _also_on_zero_grad(
    optimizer: Optimizer, reset: Callable[[Optimizer], None]
) -> Callable[[], None]:
    """Run ``reset`` with every zero_grad, until the returned function is called."""
    own = vars(optimizer).get("zero_grad")
    plain = optimizer.zero_grad

    def zero_grad(*args: Any, **kwargs: Any) -> None:
        plain(*args, **kwargs)
        reset(optimizer)

    def undo() -> None:
        if own is None:
            vars(optimizer).pop("zero_grad", None)
        else:
            optimizer.zero_grad = own

    optimizer.zero_grad = zero_grad
    return undo
