"""Collect what `trainact.diagnostics` needs from a training step of a framework."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trainact.api import tract_layers
from trainact.diagnostics import diagnose
from trainact.layers.plain import TrActLayer


class Probe:
    """Keeps what the layers under TrAct see in a step, while it is open.

    Cost: while open the input and the gradient of the output are kept; `read` costs
    what `diagnose` costs. Nothing when closed.
    """

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._layers: dict[str, TrActLayer] = {}
        self._seen: dict[str, tuple[Tensor, Tensor]] = {}

    def open(self, model: nn.Module) -> None:
        """Watch a model's layers under TrAct from now on."""
        self.close()
        self._layers = tract_layers(model)
        for name, layer in self._layers.items():
            hook = self._note(name)
            self._handles.append(layer.register_forward_hook(hook, with_kwargs=True))

    def close(self) -> None:
        """Stop watching and forget what was seen."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._seen.clear()

    def read(self) -> dict[str, float]:
        """``trainact/<layer>/<field of Diagnostics>`` -> number, of the last calls.

        Nothing for a layer that was not trained in this step, or whose input is not
        finite.
        """
        numbers: dict[str, float] = {}
        for name, (x, grad_z) in self._seen.items():
            if x.isfinite().all():
                scalars = diagnose(self._layers[name], x, grad_z).scalars()
                numbers.update(
                    {f"trainact/{name}/{field}": v for field, v in scalars.items()}
                )
        return numbers

    def _note(self, name: str) -> Any:
        def hook(layer: nn.Module, args: Any, kwargs: Any, z: Tensor) -> None:  # noqa: ARG001
            if not z.requires_grad:
                return
            x = (args[0] if args else kwargs["input"]).detach()

            def keep(grad_z: Tensor) -> None:
                self._seen[name] = x, grad_z.detach()

            z.register_hook(keep)

        return hook
