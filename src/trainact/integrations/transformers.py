"""Hugging Face's Trainer: a callback, and a mixin for exact gradient accumulation.

What a `transformers.Trainer` calls when (read in 5.23, and tested): ``on_init_end``
before the optimizer and the wrapping (DDP, FSDP, compile); at a step the backward, the
clip (``max_grad_norm``, 1.0 unless you say otherwise) and only then
``on_pre_optimizer_step``. So no callback lies between the backward and the clip, and
what must happen there is a mixin's.

Accelerate needs neither: call `trainact.apply` before ``accelerator.prepare``; with
``accelerator.accumulate``, see `trainact.deferred` and
``examples/accelerate_train.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    from transformers import Trainer, TrainerCallback
except ImportError as error:
    msg = (
        "trainact.integrations.transformers needs Transformers with its Trainer: "
        "pip install transformers accelerate"
    )
    raise ImportError(msg) from error

import trainact
from trainact.api import LayerChoice, tract_layers
from trainact.damping import check_lam, check_relative
from trainact.integrations.apply_once import apply_once

__all__ = ["DeferredMixin", "TrActCallback"]


class TrActCallback(TrainerCallback):
    r"""Put TrAct on the model that a Trainer trains.

    Applied when the Trainer is made, before it wraps the model. Checkpoints and
    ``save_pretrained`` have the keys and the config of the plain model.

    A model that is under TrAct already, with the same λ, is left as it is. Every
    micro-batch has its own statistics; for the update of the whole batch see
    `DeferredMixin`.

    Args:
        lam: :math:`\lambda`, positive; see `trainact.TrAct`.
        layer: the first layer, such as ``"vit.embeddings.patch_embeddings.projection"``
            if it cannot be told.
        example_input: to find it by following an input; see `trainact.first_layers`.
        sync: with several devices, whether they share statistics; see `trainact.TrAct`.
        relative: whether λ is in units of the mean square of the input's entries; see
            `trainact.TrAct`.

    Raises:
        ValueError: if λ is not positive.
        TypeError: if ``relative`` is not a bool.

    Examples:
        ``Trainer(model, args, train_dataset=..., callbacks=[TrActCallback()])``
    """

    def __init__(
        self,
        lam: float = 0.1,
        layer: LayerChoice | None = None,
        example_input: Any = None,
        sync: Any = False,
        relative: bool = False,
    ) -> None:
        self.lam, self.relative = check_lam(lam), check_relative(relative)
        self.layer = layer
        self.example_input = example_input
        self.sync = sync

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Apply TrAct to the Trainer's model."""
        options = self.layer, self.example_input, self.sync, self.relative
        apply_once(kwargs["model"], self.lam, *options)

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        **kwargs: Any,
    ) -> None:
        """Apply TrAct to what ``model_init`` has made, or if added by add_callback."""
        if not tract_layers(kwargs["model"]):
            self.on_init_end(args, state, control, **kwargs)


_Base = Trainer if TYPE_CHECKING else object


class DeferredMixin(_Base):
    """Gradient accumulation with the update of the whole batch, for any Trainer class.

    With ``gradient_accumulation_steps`` the statistics of all micro-batches are summed,
    over the ranks too, and the gradient is preconditioned once per step, before it is
    clipped; see `trainact.deferred`. The model must be under TrAct when training
    begins: by `TrActCallback`, or by `trainact.apply`.

    Examples:
        ``class MyTrainer(DeferredMixin, Trainer): pass``
    """

    _deferred: trainact.deferred | None = None

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; when it ends, also by an exception, nothing is deferred any more."""
        try:
            return super().train(*args, **kwargs)
        finally:
            block, self._deferred = self._deferred, None
            if block is not None:
                block.__exit__(None, None, None)

    def training_step(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Train on a micro-batch; after the last of a step, precondition.

        That is before GradScaler's unscale, which makes no difference: preconditioning
        is linear.
        """
        if self._deferred is None:
            optimizer: Any = self.optimizer
            self._deferred = trainact.deferred(model, optimizer)
            self._deferred.__enter__()
        loss = super().training_step(model, *args, **kwargs)
        if self.accelerator.sync_gradients:
            self._deferred.precondition()
        return loss
