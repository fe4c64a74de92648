"""A callback for the Trainer of the package ``pytorch_lightning``.

For ``import lightning`` there is `trainact.integrations.lightning`.
"""

from __future__ import annotations

try:
    from pytorch_lightning import Callback, LightningModule
except ImportError as error:
    msg = (
        "trainact.integrations.pytorch_lightning needs that package: pip install "
        "pytorch-lightning (or use trainact.integrations.lightning)"
    )
    raise ImportError(msg) from error

from trainact.integrations.lightning_hooks import TrActHooks

__all__ = ["TrActCallback"]


class TrActCallback(TrActHooks, Callback):
    """Puts TrAct on the model that a Trainer fits; options as in `TrActHooks`."""

    lightning_module = LightningModule
