"""What the callbacks for ``lightning`` and ``pytorch_lightning`` share: all but a base.

The two packages hold the same code under two names, and a Trainer takes only callbacks
of its own package. This file imports neither.

Where Lightning calls what (read in 2.6, and tested):

- ``setup`` of callbacks, ``setup`` of the module, ``configure_model``, the strategy's
  wrapping (DDP, FSDP), ``configure_optimizers``, ``on_fit_start``. No hook of callbacks
  lies between ``configure_model`` and the wrapping.
- At a step: zero_grad (between the forward and the backward of the first micro-batch),
  backward, GradScaler's unscale, ``on_before_optimizer_step``, clipping, the step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn

import trainact
from trainact.api import LayerChoice, tract_layers
from trainact.damping import check_lam, check_relative
from trainact.diagnostics import MAX_ENTRIES
from trainact.integrations.apply_once import apply_once
from trainact.integrations.probe import Probe


class TrActHooks:
    r"""Put TrAct on the model that a Trainer fits.

    Applied when the model is built, after ``configure_model`` or the module's ``setup``
    and before the strategy wraps it and the optimizer is made, so that
    ``configure_optimizers`` may use `trainact.split_parameters`. Checkpoints have the
    same keys as without: they load into plain models, and plain ones here.

    A model that shards itself in ``configure_model`` (``ModelParallelStrategy``) must
    call `trainact.apply` there before ``fully_shard``; the callback then takes the
    layers as they are.

    Args:
        lam: :math:`\lambda`, positive; see `trainact.TrAct`.
        layer: the first layer as named in the LightningModule, such as
            ``"model.conv1"``, if it cannot be told.
        example_input: to find it by following an input; see `trainact.first_layers`.
            On the CPU: the model is not on its device yet.
        sync: with several devices, whether they share statistics; see `trainact.TrAct`.
        deferred: with ``accumulate_grad_batches``, precondition once per step with the
            statistics of all micro-batches; see `trainact.deferred`. Clipping sees the
            result. By default each micro-batch has its own statistics.
        log_every_n_steps: log `trainact.diagnostics` to the Trainer's loggers every so
            many optimizer steps, of one micro-batch. By default never.
        remove_after_fit: leave plain layers when fitting ends, to export the model.
        relative: whether λ is in units of the mean square of the input's entries; see
            `trainact.TrAct`.

    Raises:
        ValueError: if λ is not positive or ``log_every_n_steps`` not a positive
            integer.
        TypeError: if ``relative`` is not a bool.

    Examples:
        ``Trainer(callbacks=[TrActCallback()])``
    """

    lightning_module: ClassVar[type]

    def __init__(
        self,
        lam: float = 0.1,
        layer: LayerChoice | None = None,
        example_input: Any = None,
        sync: Any = False,
        deferred: bool = False,
        log_every_n_steps: int | None = None,
        remove_after_fit: bool = False,
        relative: bool = False,
    ) -> None:
        if log_every_n_steps is not None and log_every_n_steps < 1:
            msg = (
                f"log_every_n_steps={log_every_n_steps!r} is not a positive number of "
                "steps: leave it out to log nothing"
            )
            raise ValueError(msg)
        self.lam, self.relative = check_lam(lam), check_relative(relative)
        self.layer = layer
        self.example_input = example_input
        self.sync = sync
        self.deferred = deferred
        self.log_every_n_steps = log_every_n_steps
        self.remove_after_fit = remove_after_fit
        self._open_block: trainact.deferred | None = None
        self._probe = Probe()

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: ARG002
        """Apply TrAct as soon as the model is built, which may not be now."""
        if stage != "fit":
            return
        plain: Any = self.lightning_module
        if not isinstance(pl_module, plain):
            msg = (
                f"this TrActCallback is for modules of {plain.__module__}, and "
                f"{type(pl_module).__name__} is none: import it from trainact."
                "integrations.lightning or .pytorch_lightning, as the Trainer is"
            )
            raise ValueError(msg)  # noqa: TRY004
        builds = type(pl_module).configure_model is not plain.configure_model
        last = "configure_model" if builds else "setup"
        _call_after(pl_module, last, lambda: self._apply(pl_module))

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to defer, if asked for; the optimizers exist and are restored."""
        if self.log_every_n_steps is not None:
            _check_can_log(pl_module)
        if not self.deferred:
            return
        if not pl_module.automatic_optimization:
            msg = (
                "TrActCallback(deferred=True) cannot know when a module with manual "
                "optimization clips: use trainact.deferred in its training_step"
            )
            raise ValueError(msg)
        self._open_block = trainact.deferred(trainer.strategy.model, trainer.optimizers)
        self._open_block.__enter__()

    def on_train_batch_start(
        self,
        trainer: Any,
        pl_module: Any,
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Watch the layers in a step that will be logged."""
        every = self.log_every_n_steps
        if every is not None and trainer.global_step % every == 0:
            self._probe.open(pl_module)

    def on_before_optimizer_step(
        self,
        trainer: Any,
        pl_module: Any,  # noqa: ARG002
        optimizer: Any,  # noqa: ARG002
    ) -> None:
        """Precondition what is deferred, before the clip; log."""
        if self._open_block is not None:
            self._open_block.precondition()
        numbers = self._probe.read()
        self._probe.close()
        if numbers:
            for logger in trainer.loggers:
                logger.log_metrics(numbers, step=trainer.global_step)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Stop deferring."""
        self._close()

    def on_exception(
        self,
        trainer: Any,  # noqa: ARG002
        pl_module: Any,  # noqa: ARG002
        exception: BaseException,
    ) -> None:
        """Stop deferring, and leave the module as it was before."""
        self._close(exception)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Take TrAct off, if asked for."""
        if self.remove_after_fit:
            trainact.remove(pl_module)

    def _apply(self, pl_module: Any) -> None:
        if _is_sharded(pl_module) and not tract_layers(pl_module):
            msg = (
                "this module shards its model in configure_model: call trainact.apply "
                "there, before fully_shard; TrActCallback then takes the layers as "
                "they are"
            )
            raise ValueError(msg)
        model = pl_module if self.layer is not None else _network(pl_module)
        options = self.layer, self.example_input, self.sync, self.relative
        apply_once(model, self.lam, *options)

    def _close(self, error: BaseException | None = None) -> None:
        self._probe.close()
        block, self._open_block = self._open_block, None
        if block is not None:
            block.__exit__(None if error is None else type(error), error, None)


def _is_sharded(pl_module: nn.Module) -> bool:
    if not torch.distributed.is_available():
        return False
    from torch.distributed.fsdp import FSDPModule

    return any(isinstance(module, FSDPModule) for module in pl_module.modules())


def _network(pl_module: nn.Module) -> nn.Module:
    """The child that holds all parameters, if there is one: the model to search."""
    children = [m for m in pl_module.children() if any(True for _ in m.parameters())]
    own = any(True for _ in pl_module.parameters(recurse=False))
    return children[0] if len(children) == 1 and not own else pl_module


def _check_can_log(pl_module: nn.Module) -> None:
    for name, layer in tract_layers(pl_module).items():
        weight: Any = layer.weight
        num_entries = weight[0].numel()
        if hasattr(weight, "device_mesh") or num_entries > MAX_ENTRIES:
            msg = (
                f"TrActCallback cannot log the diagnostics of layer {name!r}: its "
                f"weight is sharded, or has more than {MAX_ENTRIES} entries a row "
                f"({num_entries}); leave out log_every_n_steps"
            )
            raise ValueError(msg)


def _call_after(owner: Any, name: str, then: Callable[[], None]) -> None:
    """Call ``then`` after the next call of an object's method, and after no other."""
    method = getattr(owner, name)
    own = vars(owner).get(name)

    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        del vars(owner)[name]
        if own is not None:
            setattr(owner, name, own)
        result = method(*args, **kwargs)
        then()
        return result

    setattr(owner, name, wrapper)
