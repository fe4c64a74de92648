"""TrAct as Flax Linen layers: the same constructors, names and parameters.

    x = trainact.jax.linen.Conv(64, (7, 7), strides=2, lam=0.1)(x)   # for nn.Conv(...)

They make Linen's own layers, so that parameter trees, automatic names and checkpoints
(Orbax) are those of plain models, both ways.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from trainact.jax.needs import need

need("flax")

from flax import linen as nn
from jax import lax

from trainact.jax.operations import ConvGeneralDilated, DotGeneral
from trainact.jax.statistics import AxisName


def Conv(  # noqa: N802 - named like the layer whose place it takes
    *args: Any,
    lam: float = 0.1,
    relative: bool = False,
    axis_name: AxisName = None,
    **kwargs: Any,
) -> nn.Conv:
    r"""Make a `flax.linen.Conv` whose kernel's gradient is TrAct's.

    G becomes :math:`G (X^\top X / b + \lambda I)^{-1}`, see `trainact.jax.tract_conv`.

    Args:
        *args: as for `flax.linen.Conv`.
        lam: :math:`\lambda`, positive.
        relative: whether ``lam`` is relative to the mean square of the input's entries,
            tr A / n; see docs/extensions.md.
        axis_name: mapped axes of shard_map or pmap whose rows belong together; under
            jit with sharded arrays there is nothing to say.
        **kwargs: as for `flax.linen.Conv`.

    Returns:
        The layer.

    Raises:
        ValueError: if λ is not positive.
        TypeError: if ``relative`` is not a bool.
    """
    make = partial(ConvGeneralDilated, lam, axis_name, relative=relative)
    return nn.Conv(*args, **_with_operation("conv_general_dilated", make, kwargs))


def Dense(  # noqa: N802 - likewise
    *args: Any,
    lam: float = 0.1,
    relative: bool = False,
    axis_name: AxisName = None,
    **kwargs: Any,
) -> nn.Dense:
    r"""Make a `flax.linen.Dense` whose kernel's gradient is TrAct's.

    G becomes :math:`G (X^\top X / b + \lambda I)^{-1}`, see `trainact.jax.tract_dense`.

    Args:
        *args: as for `flax.linen.Dense`.
        lam: :math:`\lambda`, positive.
        relative: whether ``lam`` is relative to the mean square of the input's entries,
            tr A / n; see docs/extensions.md.
        axis_name: as for `Conv`.
        **kwargs: as for `flax.linen.Dense`.

    Returns:
        The layer.

    Raises:
        ValueError: if λ is not positive.
        TypeError: if ``relative`` is not a bool.
    """
    make = partial(DotGeneral, lam, axis_name, relative=relative)
    return nn.Dense(*args, **_with_operation("dot_general", make, kwargs))


def _with_operation(
    name: str, make: Callable[..., Any], settings: dict[str, Any]
) -> dict[str, Any]:
    """Put TrAct around the operation that a layer's settings name, or the usual one."""
    plain, plain_class = (settings.pop(n, None) for n in (name, f"{name}_cls"))
    operation = make(plain or getattr(lax, name))
    if plain_class is None:
        return {**settings, name: operation}
    # Linen prefers the class, and calls it inside the layer.
    return {**settings, f"{name}_cls": lambda: make(plain_class())}
