"""What `trainact recipes` can be told; imports nothing heavy, so that help is quick."""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional


@dataclass(frozen=True)
class RecipesOptions:
    """List the paper's experiments, or show everything about one of them."""

    name: Positional[str | None] = None
    """A recipe to show whole, or what the names to list begin with: fig3, fig3-sgd,
    table1; by default all."""

    json: bool = False
    """Print all about them as JSON."""
