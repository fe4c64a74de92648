"""What the first layers of a model see of a set of images: rows, A and its spectrum.

The input of a first layer depends on no parameter, so a model with random weights tells
the same as a trained one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainact.geometry import Geometry
from trainact.gram.patches import extract_patches
from trainact.gram.route import compute_gram
from trainact.layers.linear_calls import LinearCalls
from trainact.precision import full_precision

MAX_ENTRIES = 4096
LAM = 0.1


class _ReachedError(Exception):
    """All first layers have been called: the rest of the model need not run."""


@dataclass
class Survey:
    r"""Sums over the images that one layer was given.

    Attributes:
        num_images: seen.
        num_rows: b, over all of them.
        num_entries: n, entries of a row.
        num_groups: of the convolution.
        products: b times A, or None where n is above `MAX_ENTRIES`.
        squares: sum of the squared entries, b times the trace of A.
    """

    num_images: int = 0
    num_rows: int = 0
    num_entries: int = 0
    num_groups: int = 1
    products: Tensor | None = None
    squares: float = 0.0

    @property
    def rows_per_image(self) -> int:
        """Rows that one image makes."""
        return self.num_rows // self.num_images

    @property
    def mean_square(self) -> float:
        """Mean of the squared entries, the trace of A over n; 1 for standardised."""
        return self.squares / (self.num_rows * self.num_entries * self.num_groups)

    @property
    def suggested_lam(self) -> float:
        r"""The paper's :math:`\lambda = 0.1` at the scale of these entries, rounded."""
        exact = LAM * (self.mean_square or 1.0)
        power = 10.0 ** math.floor(math.log10(exact))
        series = (power * step for step in (1, 2, 5, 10))
        nearest = min(series, key=lambda value: abs(math.log(value / exact)))
        return float(f"{nearest:.1g}")

    def eigenvalues(self) -> Tensor | None:
        """The spectrum of A, all groups together.

        Returns:
            Ascending, ``[groups x n]``; None where n is above `MAX_ENTRIES`.
        """
        if self.products is None:
            return None
        values = torch.linalg.eigvalsh(self.products / self.num_rows)
        return values.clamp(min=0).flatten().sort().values

    def add(self, x: Tensor, geometry: Geometry, num_images: int) -> None:
        """Count one batch.

        Args:
            x: what the layer's linear map was given.
            geometry: of the map.
            num_images: of the batch.
        """
        self.num_images += num_images
        self.num_rows += geometry.num_rows(x.shape)
        self.num_entries = geometry.num_entries
        self.num_groups = geometry.groups
        with torch.no_grad(), full_precision(x):
            if self.num_entries > MAX_ENTRIES:
                self.squares += float(extract_patches(x, geometry).square().sum())
                return
            products_GPP = compute_gram(x, geometry)
        self.squares += float(products_GPP.diagonal(dim1=-2, dim2=-1).sum())
        old = self.products
        self.products = products_GPP if old is None else old + products_GPP


def survey(
    model: nn.Module, layers: dict[str, nn.Module], batches: Iterable[Tensor]
) -> dict[str, Survey]:
    """Run images through a model up to its first layers.

    Args:
        model: in any state; nothing in it is changed but its mode, to eval.
        layers: qualified name -> first layer.
        batches: of images, as the model takes them.

    Returns:
        Qualified name -> what that layer has seen.
    """
    seen = {name: Survey() for name in layers}
    arguments: dict[str, Any] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:  # noqa: ARG001
            arguments[name] = (args, kwargs)
            if len(arguments) == len(layers):
                raise _ReachedError

        return hook

    handles = [
        layer.register_forward_pre_hook(note(name), with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        for batch in batches:
            arguments.clear()
            _run_to_the_stems(model, batch)
            for name, (args, kwargs) in arguments.items():
                _count(seen[name], layers[name], args, kwargs, len(batch))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _run_to_the_stems(model: nn.Module, batch: Tensor) -> None:
    try:
        with torch.no_grad():
            model.eval()(batch)
    except _ReachedError:
        pass


def _count(
    seen: Survey, layer: nn.Module, args: Any, kwargs: Any, num_images: int
) -> None:
    """The layer says itself what its linear map is given (padded, say)."""

    def on_call(weight: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
        seen.add(x, geometry, num_images)
        return weight

    with torch.no_grad(), LinearCalls(on_call):
        layer.forward(*args, **kwargs)  # without its hooks: they have run
