"""One, two, four and eight devices give one gradient.

Under shard_map and pmap with ``axis_name``, under jit with sharded arrays without it,
on meshes with automatic and with explicit axes.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.tolerances import FLOAT32_PROMISE, relative_error
from trainact.jax import conv_sums, factorise, precondition_gradient, tract_dense
from trainact.jax.sharding import vary_over

from .test_transforms import NHWC, conv

pytestmark = pytest.mark.usefixtures("strict_jax")

# Rows of all devices, of one device, and entries: more, fewer; more only together.
PROBLEMS = {
    "primal": (tract_dense, (64, 6), (6, 3)),
    "dual": (tract_dense, (16, 20), (20, 3)),
    "primal together": (tract_dense, (64, 20), (20, 3)),
    "conv": (conv, (8, 5, 5, 2), (3, 3, 2, 4)),
    "relative": (partial(tract_dense, relative=True), (16, 6), (6, 3)),
    "relative, dual": (partial(tract_dense, relative=True), (16, 20), (20, 3)),
}
problems = pytest.mark.parametrize("name", list(PROBLEMS))
counts = pytest.mark.parametrize("count", [1, 2, 4, 8])


def make(name: str):
    layer, x_shape, w_shape = PROBLEMS[name]
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.standard_normal(s), "float32") for s in (x_shape, w_shape))
    if "relative" in name:  # every device's rows are of another size
        x *= jnp.geomspace(0.1, 3, len(x))[:, None]

    def loss(w, x, **more):
        return jnp.square(jnp.tanh(layer(x, w, **more))).mean()

    return loss, w, x


def mesh_of(devices, count: int, kind: AxisType = AxisType.Auto):
    return jax.make_mesh((count,), ("data",), (kind,), devices=devices[:count])


@problems
@counts
@pytest.mark.parametrize("is_checked", [True, False])
def test_shard_map(name: str, count: int, is_checked: bool, devices) -> None:
    loss, w, x = make(name)

    def local(w, x):
        if is_checked:  # JAX itself sums the gradients of a replicated kernel
            return jax.grad(lambda w: lax.pmean(loss(w, x, axis_name="data"), "data"))(
                w
            )
        return lax.pmean(jax.grad(loss)(w, x, axis_name="data"), "data")

    mapped = jax.shard_map(
        local,
        mesh=mesh_of(devices, count),
        in_specs=(P(), P("data")),
        out_specs=P(),
        check_vma=is_checked,
    )
    truth = jax.grad(loss)(w, x)
    assert relative_error(jax.jit(mapped)(w, x), truth) < FLOAT32_PROMISE


def test_shard_map_where_jax_has_pvary_alone(devices, monkeypatch) -> None:
    # As until jax 0.8: the same under an older name.
    pcast = lax.pcast
    monkeypatch.delattr(lax, "pcast")
    monkeypatch.setattr(
        lax, "pvary", lambda x, names: pcast(x, names, to="varying"), raising=False
    )
    x = jnp.arange(8.0)
    mapped = jax.shard_map(
        lambda x: lax.fori_loop(
            0, 3, lambda _, total: total + x, vary_over(jnp.zeros(2), {"data"})
        ),
        mesh=mesh_of(devices, 4),
        in_specs=P("data"),
        out_specs=P("data"),
    )
    assert jnp.array_equal(jax.jit(mapped)(x), 3 * x)


@problems
def test_without_axis_name_each_device_has_its_own_statistics(name, devices) -> None:
    loss, w, x = make(name)
    mapped = jax.shard_map(
        lambda w, x: jax.grad(lambda w: lax.pmean(loss(w, x), "data"))(w),
        mesh=mesh_of(devices, 4),
        in_specs=(P(), P("data")),
        out_specs=P(),
    )
    truth = sum(jax.grad(loss)(w, part) for part in jnp.split(x, 4)) / 4
    assert relative_error(jax.jit(mapped)(w, x), truth) < FLOAT32_PROMISE


@problems
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize(("count", "settings"), [(2, {}), (8, {"lam": 0.1})])
def test_sharded_jit(name: str, kind: AxisType, count, settings, devices) -> None:
    loss, w, x = make(name)
    mesh = mesh_of(devices, count, kind)
    w_split = jax.device_put(w, NamedSharding(mesh, P()))
    x_split = jax.device_put(x, NamedSharding(mesh, P("data")))
    grad = jax.jit(jax.grad(loss))(w_split, x_split, **settings)  # λ is traced
    assert relative_error(grad, jax.grad(loss)(w, x)) < FLOAT32_PROMISE


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize(
    ("spec", "kernel"),
    [
        (P("data"), P()),
        (P(None, "data"), P()),
        (P("data", "model"), P()),
        (P("data"), P(None, "model")),
    ],
)
def test_batches_mapped_inside_the_gradient(kind, spec, kernel, devices) -> None:
    _, w, x = make("primal")
    mesh = jax.make_mesh((4, 2), ("data", "model"), (kind,) * 2, devices=devices)
    w, xs = w[:, :2], x.reshape(4, 16, 6)

    def loss(w, xs):
        each = jax.vmap(lambda x: jnp.square(tract_dense(x, w)).sum())
        return each(xs).sum()

    truth = sum(jax.grad(loss)(w, x[None]) for x in xs)
    w_split = jax.device_put(w, NamedSharding(mesh, kernel))
    x_split = jax.device_put(xs, NamedSharding(mesh, spec))
    grad = jax.jit(jax.grad(loss))(w_split, x_split)
    assert relative_error(grad, truth) < FLOAT32_PROMISE


@pytest.mark.parametrize("is_checked", [True, False])
@pytest.mark.parametrize("is_compiled", [True, False])
def test_gradient_outside_of_shard_map(is_checked, is_compiled, devices) -> None:
    loss, w, x = make("primal together")
    mapped = jax.shard_map(
        lambda w, x: lax.pmean(loss(w, x, axis_name="data"), "data"),
        mesh=mesh_of(devices, 4),
        in_specs=(P(), P("data")),
        out_specs=P(),
        check_vma=is_checked,
    )
    mapped = jax.jit(mapped) if is_compiled else mapped
    assert relative_error(jax.grad(mapped)(w, x), jax.grad(loss)(w, x)) < (
        FLOAT32_PROMISE
    )


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_split_kernel(kind: AxisType, devices) -> None:
    loss, w, x = make("primal")
    mesh = jax.make_mesh((4, 2), ("data", "model"), (kind,) * 2, devices=devices)
    for spec in (P("model", None), P(None, None)):
        w_split = jax.device_put(w, NamedSharding(mesh, spec))
        x_split = jax.device_put(x, NamedSharding(mesh, P("data")))
        grad = jax.jit(jax.grad(loss))(w_split, x_split)
        assert relative_error(grad, jax.grad(loss)(w, x)) < FLOAT32_PROMISE


@problems
def test_pmap(name: str, devices) -> None:
    loss, w, x = make(name)
    mapped = jax.pmap(
        lambda w, x: lax.pmean(jax.grad(loss)(w, x, axis_name="data"), "data"),
        axis_name="data",
        in_axes=(None, 0),
        devices=devices[:4],
    )
    grad = mapped(w, x.reshape(4, -1, *x.shape[1:]))[0]
    assert relative_error(grad, jax.grad(loss)(w, x)) < FLOAT32_PROMISE


def test_two_mapped_axes(devices) -> None:
    loss, w, x = make("dual")
    axes = ("data", "model")
    mapped = jax.shard_map(
        lambda w, x: jax.grad(lambda w: lax.pmean(loss(w, x, axis_name=axes), axes))(w),
        mesh=jax.make_mesh((2, 2), axes, (AxisType.Auto,) * 2, devices=devices[:4]),
        in_specs=(P(), P(axes)),
        out_specs=P(),
    )
    grad = jax.jit(mapped)(w, x)
    assert relative_error(grad, jax.grad(loss)(w, x)) < FLOAT32_PROMISE


def test_sums_of_devices(devices) -> None:
    loss, w, x = make("conv")

    def sums(x):
        settings = {"padding": "SAME", "dimension_numbers": NHWC}
        return lax.psum(conv_sums(x, w, **settings), "data")

    mapped = jax.shard_map(
        sums, mesh=mesh_of(devices, 8), in_specs=P("data"), out_specs=P()
    )
    plain = jax.grad(
        lambda w: jnp.square(
            jnp.tanh(
                lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC)
            )
        ).mean()
    )(w)
    factor = factorise(jax.jit(mapped)(x), 0.1)
    grad = precondition_gradient(plain, factor, layout="HWIO")
    assert relative_error(grad, jax.grad(loss)(w, x)) < FLOAT32_PROMISE
