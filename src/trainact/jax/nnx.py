"""TrAct on the first layer of a built Flax NNX model, in place.

    model = MyModel(rngs=nnx.Rngs(0))
    trainact.jax.nnx.apply(model, layer="patch_embed.proj")

The layer stays what it is, with the same parameters under the same names, so that
checkpoints (Orbax) of plain models fit, both ways. Training steps stay as they are.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from trainact.jax.needs import need

need("flax")

from flax import nnx

from trainact.jax.damping import check_damping
from trainact.jax.operations import ConvGeneralDilated, DotGeneral
from trainact.jax.statistics import AxisName

ModelT = TypeVar("ModelT", bound=nnx.Module)
LayerChoice = str | nnx.Module | Sequence[str | nnx.Module]
_OPERATIONS: dict[str, Any] = {
    "conv_general_dilated": ConvGeneralDilated,
    "dot_general": DotGeneral,
}
# Calls that use the kernel in the layer's operation alone.
_CALLS = {
    kind.__call__ for kind in (nnx.Conv, nnx.Linear, nnx.LinearGeneral, nnx.LoRALinear)
}


def apply(
    model: ModelT,
    lam: float = 0.1,
    layer: LayerChoice | None = None,
    axis_name: AxisName = None,
    *,
    relative: bool = False,
) -> ModelT:
    r"""Put TrAct on a model's first layer or layers, in place.

    The kernel's gradient G becomes :math:`G (X^\top X / b + \lambda I)^{-1}`, with
    :math:`\lambda` as ``lam``, see `trainact.jax.tract_conv`.

    Args:
        model: any NNX module.
        lam: :math:`\lambda`, positive.
        layer: the first layer: its path such as ``"patch_embed.proj"`` or
            ``"blocks.0.conv"``, the module itself, or several of these. An `nnx.Conv`,
            `nnx.Linear` or `nnx.LinearGeneral`. A model that has only one of these
            needs none named, nor does such a layer by itself.
        axis_name: mapped axes of shard_map or pmap whose rows belong together; under
            jit with sharded arrays there is nothing to say.
        relative: whether ``lam`` is relative to the mean square of the input's entries,
            tr A / n; see docs/extensions.md.

    Returns:
        The same model. If anything is refused, nothing has been changed.

    Raises:
        ValueError: if a layer is unknown, unsupported or under TrAct already, if its
            class overrides ``__call__``, if no layer is named and there are several,
            or if λ is not positive.
        TypeError: if ``relative`` is not a bool.

    Examples:
        >>> from flax import nnx
        >>> import trainact.jax.nnx
        >>> model = nnx.Conv(3, 8, (3, 3), rngs=nnx.Rngs(0))
        >>> _ = trainact.jax.nnx.apply(model)
        >>> model.conv_general_dilated.lam
        0.1
    """
    check_damping(lam, relative)
    chosen: dict[str, Any] = dict(_find(model, layer))
    for name, module in chosen.items():
        _check(name, module)
    for module in chosen.values():
        attribute = _attribute(module)
        plain = getattr(module, attribute)
        make = _OPERATIONS[attribute]
        setattr(module, attribute, make(lam, axis_name, plain, relative=relative))
    return model


def remove(model: ModelT) -> ModelT:
    """Make every layer under TrAct a plain layer again, in place.

    Args:
        model: a model, or a single layer.

    Returns:
        The same object; one without TrAct is left alone.
    """
    for module in tract_layers(model).values():
        attribute = _attribute(module)
        setattr(module, attribute, getattr(module, attribute).plain)
    return model


def tract_layers(model: nnx.Module) -> dict[str, nnx.Module]:
    """List the layers that TrAct is on.

    Args:
        model: a model, or a single layer.

    Returns:
        Path -> layer.
    """
    return {name: module for name, module in _layers(model) if _is_treated(module)}


def _check(name: str, module: Any) -> None:
    """Refuse a layer that is under TrAct, or that would not use its operation."""
    if _is_treated(module):
        msg = f"layer {name!r} is under TrAct already: remove(model) undoes that"
        raise ValueError(msg)
    if getattr(module, "dot_general_cls", None) is not None:
        msg = (
            f"layer {name!r} makes its product by dot_general_cls: give it the "
            "operation as dot_general instead"
        )
        raise ValueError(msg)
    if type(module).__call__ not in _CALLS:
        attribute = _attribute(module)
        operation = _OPERATIONS[attribute].__name__
        msg = (
            f"layer {name!r} is a {type(module).__name__}, whose class overrides "
            f"__call__: if that calls self.{attribute}, set this attribute to "
            f"trainact.jax.{operation}(lam=...) yourself; otherwise use "
            "trainact.jax.tract_conv or tract_dense in it"
        )
        raise ValueError(msg)


def _attribute(module: nnx.Module) -> str:
    """Name of the attribute that holds a layer's operation."""
    return "conv_general_dilated" if isinstance(module, nnx.Conv) else "dot_general"


def _is_treated(module: nnx.Module) -> bool:
    attribute = _attribute(module)
    return isinstance(getattr(module, attribute), _OPERATIONS[attribute])


def _layers(model: nnx.Module) -> Iterator[tuple[str, Any]]:
    for path, module in nnx.iter_modules(model):
        if isinstance(module, nnx.Conv | nnx.Linear | nnx.LinearGeneral):
            yield ".".join(map(str, path)), module


def _find(
    model: nnx.Module, layer: LayerChoice | None
) -> Iterator[tuple[str, nnx.Module]]:
    layers = dict(_layers(model))
    if layer is None:
        if len(layers) != 1:
            msg = f"which layer is the first? {_candidates(layers)}"
            raise ValueError(msg)
        yield from layers.items()
        return
    for one in [layer] if isinstance(layer, str | nnx.Module) else layer:
        yield _find_one(layers, one)


def _find_one(
    layers: dict[str, nnx.Module], layer: str | nnx.Module
) -> tuple[str, nnx.Module]:
    if isinstance(layer, str):
        if layer in layers:
            return layer, layers[layer]
        close = difflib.get_close_matches(layer, layers, n=3)
        hint = f"Did you mean {' or '.join(map(repr, close))}? " if close else ""
        msg = f"the model has no layer {layer!r}. {hint}{_candidates(layers)}"
        raise ValueError(msg)
    for name, module in layers.items():
        if module is layer:
            return name, module
    msg = (
        f"the given {type(layer).__name__} is no layer of the model that TrAct can "
        f"train. {_candidates(layers)}"
    )
    raise ValueError(msg)


def _candidates(layers: dict[str, nnx.Module]) -> str:
    if not layers:
        return "It has no Conv, Linear or LinearGeneral that TrAct could train"
    names = [f"{name!r} ({type(m).__name__})" for name, m in list(layers.items())[:8]]
    more = f" and {len(layers) - 8} more" if len(layers) > 8 else ""
    return f"Name it with layer=, one of {', '.join(names)}{more}"
