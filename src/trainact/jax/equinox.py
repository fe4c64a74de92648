"""TrAct on the first layer of an Equinox model.

    model = trainact.jax.equinox.apply(model, lambda m: m.patch_embed)
    logits = jax.vmap(model, axis_name="batch")(images)

An Equinox model takes one example. The examples of a batch meet at the axis that
`jax.vmap` maps, which therefore needs the name. The model's leaves stay what and where
they are, so that files and checkpoints of plain models fit, both ways.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from trainact.jax.needs import need

need("equinox")

import equinox as eqx
from jax import Array, lax
from jax.custom_batching import custom_vmap

from trainact.jax.conv import mark_conv
from trainact.jax.damping import check_damping
from trainact.jax.layouts import dense_layout
from trainact.jax.preconditioner import mark
from trainact.jax.statistics import AxisName

ModelT = TypeVar("ModelT")


class TrActLayer(eqx.Module):
    r"""What layers under TrAct have beside the plain layer's fields.

    Attributes:
        lam: :math:`\lambda`.
        relative: whether it is in units of tr A / n.
        batch_axis: of `jax.vmap`, whose examples are one batch; None for each alone.
        axis_name: further mapped axes whose rows belong together.
        is_model: whether the layer is not a part of a model.
        plain: class of the layer before.
    """

    lam: float = eqx.field(static=True)
    relative: bool = eqx.field(static=True)
    batch_axis: str | None = eqx.field(static=True)
    axis_name: AxisName = eqx.field(static=True)
    is_model: bool = eqx.field(static=True, init=False)
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
            _batch(seen, self),
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
        rows = _batch(row, self)
        damping = check_damping(self.lam, self.relative)
        layout = dense_layout(rows)
        weight = mark(self.weight, rows, damping, (0, 1), layout, self.axis_name)
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
        axis_name: further mapped axes whose rows belong together: of shard_map or pmap,
            or of the model's own `jax.vmap` over parts of an example. Under jit with
            sharded arrays there is nothing to say.
        relative: whether ``lam`` is relative to the mean square of the input's entries,
            tr A / n; see docs/extensions.md.

    Returns:
        The new model; the given one is unchanged.

    Raises:
        ValueError: if λ is not positive, or a layer is of another kind (also a subclass
            with methods or fields of its own) or under TrAct.
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
            if isinstance(layer, plain) and _is_as(type(layer), plain):
                own = {"is_model": layer is model, "plain": type(layer)}
                return _copy(layer, ours, settings | own)
        msg = (
            f"where= gives a {type(layer).__name__}: expected a Conv or a Linear of "
            "equinox.nn that is not under TrAct yet. In a subclass with methods or "
            "fields of its own, use trainact.jax.tract_conv or tract_dense with "
            f"axis_name={batch_axis!r} on x[None]"
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


def _is_as(kind: type, plain: type) -> bool:
    """Whether a subclass has the methods and the fields of the plain layer."""
    names = [n for n, v in vars(plain).items() if callable(v) and n != "__init__"]
    same_methods = all(getattr(kind, n) is getattr(plain, n) for n in names)
    fields, plain_fields = (set(k.__dataclass_fields__) for k in (kind, plain))
    return same_methods and fields == plain_fields


def _batch(x: Array, layer: Any) -> Array:
    """All examples of the batch."""
    axis = layer.batch_axis
    if axis is None:
        return x[None]
    try:
        examples, index = lax.all_gather(x, axis), lax.axis_index(axis)
    except NameError as error:
        msg = (
            f"no axis is named {axis!r}: call the model as jax.vmap(model, "
            f"axis_name={axis!r})(examples), so that TrAct sees the whole batch, "
            "or give apply(..., batch_axis=None) if each example is one"
        )
        raise ValueError(msg) from error
    # Mapped over what the rows are mapped over, but for the further named axes.
    nothing, weight = lax.stop_gradient((examples[:0], layer.weight))
    if layer.axis_name is not None:
        nothing = lax.psum(nothing, layer.axis_name)
    undivided = _undivided(layer)(nothing, index, weight)
    return lax.concatenate([examples, undivided], 0)


def _undivided(layer: TrActLayer) -> Callable[..., Array]:
    """Make an identity on its first argument that sees which axes divide a batch."""
    # JAX hands mapped axes over from the innermost to the outermost. One without a name
    # inside the batch axis, as of a model that maps its layer over the patches of an
    # image, divides the batch, unless it also maps the weight. Axes outside the batch
    # axis are the caller's.

    @custom_vmap
    def identity(nothing: Array, index: Array, weight: Array) -> Array:
        del index, weight
        return nothing

    def mapped(
        size: int, is_mapped: list[bool], nothing: Array, *others: Array
    ) -> tuple[Array, bool]:
        divides, is_batch, has_own_weight = is_mapped
        if divides and not has_own_weight:
            _say_divided(layer, size)
        return nothing if is_batch else identity(nothing, *others), divides

    identity.def_vmap(mapped)
    return identity


def _say_divided(layer: TrActLayer, size: int) -> None:
    axis = layer.batch_axis
    msg = (
        f"jax.vmap maps {size} inputs of one example without a name for their axis, "
        "and each would be a batch of its own. If all are rows of one batch, as the "
        "patches of an image, name the axis: jax.vmap(layer, axis_name='patches') and "
        f"apply(..., batch_axis={axis!r}, axis_name='patches'); if not, "
        f"apply(..., batch_axis=None, axis_name={axis!r})"
    )
    if not layer.is_model:
        raise ValueError(msg)
    # Then every mapped axis is the caller's own.
    warnings.warn(msg, stacklevel=2)
