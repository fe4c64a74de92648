"""TrAct on the first layer of an Equinox model.

    model = trainact.jax.equinox.apply(model, lambda m: m.patch_embed)
    logits = jax.vmap(model, axis_name="batch")(images)

An Equinox model takes one example. The examples of a batch meet at the axis that
`jax.vmap` maps, which therefore needs the name. The model's leaves stay what and where
they are, so that files and checkpoints of plain models fit, both ways.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from trainact.jax.needs import need

need("equinox")

import equinox as eqx
from jax import Array, lax

from trainact.jax.checks import check_damping
from trainact.jax.conv import mark_conv
from trainact.jax.precondition import mark
from trainact.jax.statistics import AxisName

ModelT = TypeVar("ModelT")


class TrActLayer(eqx.Module):
    r"""What layers under TrAct have beside the plain layer's fields.

    Attributes:
        lam: :math:`\lambda`.
        relative: whether it is in units of tr A / n.
        batch_axis: of `jax.vmap`, whose examples are one batch; None for each alone.
        axis_name: further mapped axes, of shard_map or pmap.
        plain: class of the layer before.
    """

    lam: float = eqx.field(static=True)
    relative: bool = eqx.field(static=True)
    batch_axis: str | None = eqx.field(static=True)
    axis_name: AxisName = eqx.field(static=True)
    plain: type = eqx.field(static=True)


class TrActConv(TrActLayer, eqx.nn.Conv):
    """An `equinox.nn.Conv` whose weight's gradient is TrAct's; made by `apply`."""

    def __call__(self, x: Array, *, key: Any = None) -> Array:
        """Convolve one example.

        Args:
            x: ``[channels, *spatial]``.
            key: not used.

        Returns:
            ``[output channels, *spatial]``.
        """
        is_padded = self.padding_mode != "ZEROS"
        seen = self._nonzero_pad(x) if is_padded else x
        weight = mark_conv(
            _batch(seen, self.batch_axis),
            self.weight,
            check_damping(self.lam, self.relative),
            strides=self.stride,
            padding="VALID" if is_padded else self.padding,
            rhs_dilation=self.dilation,
            feature_group_count=self.groups,
            axis_name=self.axis_name,
        )
        return eqx.nn.Conv.__call__(_with_weight(self, weight), x, key=key)


class TrActLinear(TrActLayer, eqx.nn.Linear):
    """An `equinox.nn.Linear` whose weight's gradient is TrAct's; made by `apply`."""

    def __call__(self, x: Array, *, key: Any = None) -> Array:
        """Multiply one example.

        Args:
            x: ``[features]``, or a scalar where the layer takes one.
            key: not used.

        Returns:
            ``[output features]``.
        """
        row = x.reshape(1) if self.in_features == "scalar" else x
        rows = _batch(row, self.batch_axis)
        damping = check_damping(self.lam, self.relative)
        weight = mark(self.weight, rows, damping, (0, 1), None, self.axis_name)
        return eqx.nn.Linear.__call__(_with_weight(self, weight), x, key=key)


_CLASSES: dict[type, type] = {eqx.nn.Conv: TrActConv, eqx.nn.Linear: TrActLinear}


def apply(
    model: ModelT,
    where: Callable[[ModelT], Any],
    lam: float = 0.1,
    batch_axis: str | None = "batch",
    axis_name: AxisName = None,
    *,
    relative: bool = False,
) -> ModelT:
    r"""Put TrAct on a model's first layer or layers.

    The weight's gradient G becomes :math:`G (X^\top X / b + \lambda I)^{-1}`, with
    :math:`\lambda` as ``lam``, see `trainact.jax.tract_conv`. b counts the rows of all
    examples of the batch.

    Args:
        model: any Equinox module.
        where: from the model to its first layer (a `Conv`, `Conv1d`, `Conv2d`, `Conv3d`
            or `Linear`), or to a tuple of them, as for `equinox.tree_at`.
        lam: :math:`\lambda`, positive.
        batch_axis: the name that `jax.vmap` gives the axis of the examples; None if
            each example is to be a batch of its own.
        axis_name: mapped axes of shard_map or pmap whose rows belong together; under
            jit with sharded arrays there is nothing to say.
        relative: whether ``lam`` is relative to the mean square of the input's entries,
            tr A / n; see docs/extensions.md.

    Returns:
        The new model; the given one is unchanged.

    Raises:
        ValueError: if λ is not positive, or a layer is of another kind or under TrAct.
        TypeError: if ``relative`` is not a bool.

    Examples:
        >>> import equinox as eqx, jax
        >>> import trainact.jax.equinox
        >>> model = eqx.nn.MLP(4, 2, 8, 1, key=jax.random.key(0))
        >>> model = trainact.jax.equinox.apply(model, lambda m: m.layers[0])
        >>> type(model.layers[0]).__name__
        'TrActLinear'
    """
    check_damping(lam, relative)
    settings = {
        "lam": lam,
        "relative": relative,
        "batch_axis": batch_axis,
        "axis_name": axis_name,
    }

    def convert(layer: Any) -> Any:
        for plain, ours in _CLASSES.items():
            if isinstance(layer, plain) and not isinstance(layer, TrActLayer):
                return _copy(layer, ours, {**settings, "plain": type(layer)})
        msg = (
            f"where= gives a {type(layer).__name__}: expected a Conv or a Linear of "
            "equinox.nn that is not under TrAct yet"
        )
        raise ValueError(msg)

    return _replace(model, where, convert)


def remove(model: ModelT, where: Callable[[ModelT], Any]) -> ModelT:
    """Make layers under TrAct plain layers again.

    Args:
        model: that `apply` returned.
        where: from the model to the layers, as for `apply`.

    Returns:
        The new model; the given one is unchanged.

    Raises:
        ValueError: if a layer is not under TrAct.
    """

    def convert(layer: Any) -> Any:
        if isinstance(layer, TrActLayer):
            return _copy(layer, layer.plain, {})
        msg = f"where= gives a {type(layer).__name__}, which is not under TrAct"
        raise ValueError(msg)

    return _replace(model, where, convert)


def _replace(
    model: ModelT, where: Callable[[ModelT], Any], convert: Callable[[Any], Any]
) -> ModelT:
    found = where(model)
    is_several = isinstance(found, list | tuple)
    new = [convert(layer) for layer in found] if is_several else convert(found)
    return eqx.tree_at(where, model, new)


def _copy(layer: Any, kind: type, settings: dict[str, Any]) -> Any:
    """The same fields in another class, without running its constructor."""
    copy = object.__new__(kind)
    names = kind.__dataclass_fields__
    for name, value in {**vars(layer), **settings}.items():
        if name in names:
            object.__setattr__(copy, name, value)
    return copy


def _with_weight(layer: Any, weight: Array) -> Any:
    def weight_of(one: Any) -> Any:
        return one.weight

    return eqx.tree_at(weight_of, layer, weight)


def _batch(x: Array, batch_axis: str | None) -> Array:
    """All examples of the batch, without a gradient."""
    x = lax.stop_gradient(x)
    if batch_axis is None:
        return x[None]
    try:
        return lax.all_gather(x, batch_axis)
    except NameError as error:
        msg = (
            f"no axis is named {batch_axis!r}: call the model as jax.vmap(model, "
            f"axis_name={batch_axis!r})(examples), so that TrAct sees the whole batch, "
            "or give apply(..., batch_axis=None) if each example is one"
        )
        raise ValueError(msg) from error
