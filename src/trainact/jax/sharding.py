"""What JAX's types say of meshes: axes over which a value differs or is split.

Under shard_map what a loop carries, and what a gradient belongs to, must differ over
the same axes. On a mesh with explicit axes (what `jax.make_mesh` makes by default)
every reshape must say how its result is split; statistics leave that to the compiler.
Without a mesh, nothing is done here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import jax
from jax import Array, lax

Result = TypeVar("Result")


def varies_over(x: Array) -> set[Any]:
    """Axes of the mesh over which an array differs.

    Args:
        x: any array.

    Returns:
        Their names.
    """
    kind = _type_of(x)
    varying = getattr(getattr(kind, "mat", None), "varying", None)
    return set(getattr(kind, "vma", ()) if varying is None else varying)


def vary_over(x: Array, names: Iterable[Any]) -> Array:
    """Let an array count as differing over more axes; its gradient is summed over them.

    Args:
        x: any array.
        names: of the axes.

    Returns:
        The same values.
    """
    missing = tuple(sorted(set(names) - varies_over(x), key=str))
    if not missing:
        return x
    pcast: Any = getattr(lax, "pcast", None)
    if pcast is not None:
        return pcast(x, missing, to="varying")
    pvary: Any = getattr(lax, "pvary")  # noqa: B009 - older versions have it alone
    return pvary(x, missing)


def split_freely(
    function: Callable[..., Result], *arrays: Any, like: Array | None = None
) -> Result:
    """Call a function whose inner arrays the compiler may split as it likes.

    Args:
        function: of arrays.
        *arrays: its arguments, the first one on the mesh in question.
        like: what the result is split like; None for the same on every device.

    Returns:
        Its result.
    """
    sharding: Any = getattr(_type_of(arrays[0]), "sharding", None)
    explicit = tuple(getattr(getattr(sharding, "mesh", None), "explicit_axes", ()))
    if not explicit:
        return function(*arrays)
    spec = jax.sharding.PartitionSpec()
    if like is not None:
        spec = _type_of(like).sharding.spec
    result = jax.sharding.NamedSharding(sharding.mesh, spec)
    decorate: Any = getattr(jax.sharding, "auto_axes")  # noqa: B009 - since jax 0.7
    return decorate(function, axes=explicit, out_sharding=result)(*arrays)


def _type_of(x: Array) -> Any:
    typeof: Any = getattr(jax, "typeof", None)
    return typeof and typeof(x)
