"""A callback for Lightning's Trainer (``import lightning``).

If your Trainer is from the package ``pytorch_lightning``, import from
`trainact.integrations.pytorch_lightning`: a callback and its Trainer must be of one
package.
"""

from __future__ import annotations

try:
    from lightning.pytorch import Callback, LightningModule
except ImportError as error:
    msg = (
        "trainact.integrations.lightning needs Lightning: pip install lightning (or, "
        "with a Trainer of pytorch_lightning, use trainact.integrations."
        "pytorch_lightning)"
    )
    raise ImportError(msg) from error

from trainact.integrations.lightning_hooks import TrActHooks

__all__ = ["TrActCallback"]


class TrActCallback(TrActHooks, Callback):
    """Puts TrAct on the model that a Trainer fits; options as in `TrActHooks`."""

    lightning_module = LightningModule
