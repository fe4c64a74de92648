"""`relative=True`: λ in units of tr A / n, each group's own, whatever the route.

1. The gradient is the oracle's at λ tr A / n; the scale of the input cancels.
2. λ may be traced; devices, examples and micro-batches give the whole batch's tr A.
3. Nothing but zeros, what is not finite, and the least damping are as ever.

Layers and operations pass it on: `test_relative_layers`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.tolerances import FLOAT32_PROMISE, ORACLE_RTOL, relative_error
from trainact import reference
from trainact.damping import Damping
from trainact.jax import (
    GramSums,
    conv_sums,
    dense_sums,
    factorise,
    precondition,
    precondition_gradient,
)
from trainact.jax.factor import factorise_gram

from .cases import Case, to_layout
from .test_devices import mesh_of

pytestmark = pytest.mark.usefixtures("strict_jax")

LAM = 0.1
TOLERANCES = {"float32": FLOAT32_PROMISE, "float64": ORACLE_RTOL}

PAIRS = ((0, 1), (2, 0))
SETTINGS = {"strides": (2, 1), "padding": PAIRS}
GROUPED = SETTINGS | {
    "feature_group_count": 2,
    "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
}
CASES = {
    "dense": Case((20, 6), (3, 6), {}),
    "dense, dual": Case((4, 9), (3, 9), {}),
    "conv": Case((3, 2, 6, 5), (4, 2, 3, 2), SETTINGS, PAIRS),
    "conv, dual": Case((1, 5, 4, 4), (4, 5, 3, 3), SETTINGS, PAIRS),
    "conv, groups": Case((3, 4, 6, 5), (4, 2, 3, 2), GROUPED, PAIRS),
    "conv, groups, dual": Case((1, 10, 4, 4), (4, 5, 3, 3), GROUPED, PAIRS),
}
cases = pytest.mark.parametrize("name", list(CASES))
DENSE, DUAL = CASES["dense"], CASES["dense, dual"]


def scaled(case: Case, dtype: Any = "float32", seed: int = 0) -> tuple[Any, Any, Any]:
    """Far from unit scale, and each channel of images at a scale of its own."""
    x, w, grad_z = case.given(dtype, seed)
    axis = 1 if case.is_dense else case.layouts[0].index("C")
    size = np.ones(x.ndim, int)
    size[axis] = x.shape[axis]
    scales = 30.0 if case.is_dense else np.geomspace(1, 30, x.shape[axis]).reshape(size)
    return jnp.asarray(np.asarray(x) * scales, dtype), w, grad_z


def truth(case: Case, x: Any, grad_z: Any, lam: float = LAM) -> np.ndarray:
    """The oracle's gradient, for each group at its own λ."""
    x, grad_z = (np.asarray(array, "float64") for array in (x, grad_z))
    if not case.is_dense:
        x, grad_z = (
            canonical(a, case.layouts[index]) for a, index in ((x, 0), (grad_z, 2))
        )
        grad_z = np.moveaxis(grad_z, 1, -1)
    grads_z = grad_z.reshape(-1, case.groups, case.kernel[0] // case.groups)
    blocks = [
        reference.tract_gradient(grad_NO, x_NP, lam * float(np.mean(x_NP**2)))
        for grad_NO, x_NP in zip(np.moveaxis(grads_z, 1, 0), case.rows(x), strict=True)
    ]
    grad = np.concatenate(blocks).reshape(case.kernel)
    return grad.T if case.is_dense else to_layout(grad, case.layouts[1], "OI")


def canonical(array: np.ndarray, layout: str) -> np.ndarray:
    spatial = "".join(letter for letter in layout if letter not in "NC")
    return array.transpose([layout.index(letter) for letter in "NC" + spatial])


def gradient(
    case: Case, x: Any, w: Any, grad_z: Any, lam: Any = LAM, **more: Any
) -> jax.Array:
    return case.gradient(x, w, grad_z, lam, relative=True, **more)


@cases
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_oracle(name: str, dtype: str) -> None:
    case = CASES[name]
    with jax.enable_x64(dtype == "float64"):
        x, w, grad_z = scaled(case, dtype)
        grad = jax.jit(partial(gradient, case))(x, w, grad_z)
        absolute = case.gradient(x, w, grad_z, LAM)
        same = case.gradient(x, w, grad_z, LAM, relative=False)
    expected = truth(case, x, grad_z)
    assert grad.dtype == dtype
    assert relative_error(grad, expected) < TOLERANCES[dtype]
    assert relative_error(absolute, expected) > 0.01
    assert np.array_equal(absolute, same)
    _, num_rows, num_entries = case.rows(case.arrays()[0]).shape
    assert ("dual" in name) == (num_rows < num_entries)


@cases
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_change_of_pre_activations_does_not_depend_on_the_scale(
    name: str, dtype: str
) -> None:
    case = CASES[name]
    with jax.enable_x64(dtype == "float64"):
        x, w, grad_z = case.given(dtype)
        compiled = jax.jit(partial(gradient, case))
        expected = compiled(x, w, grad_z)
        for scale in (1e-3, 255.0):
            grad = scale * compiled(scale * x, w, grad_z)
            assert relative_error(grad, expected) < TOLERANCES[dtype], scale
            absolute = scale * case.gradient(scale * x, w, grad_z)
            assert relative_error(absolute, expected) > 0.01, scale


@cases
def test_lam_may_be_traced(name: str) -> None:
    case = CASES[name]
    arrays = scaled(case)

    def of(lam: jax.Array) -> jax.Array:
        return gradient(case, *arrays, lam=lam)

    lams = jnp.asarray([0.05, 0.4], "float32")
    expected = [truth(case, arrays[0], arrays[2], lam) for lam in (0.05, 0.4)]
    results = {
        "jit": [jax.jit(of)(lam) for lam in lams],
        "vmap": jax.vmap(of)(lams),
        "map": lax.map(of, lams),
    }
    for way, result in results.items():
        assert relative_error(result, expected) < FLOAT32_PROMISE, way
    _, pull = jax.vjp(of, lams[0])
    assert pull(results["map"][0]) == (0,)


def test_each_example_has_its_own_size() -> None:
    batches = scaled(DUAL), DUAL.given("float32", 1)
    arrays = [jnp.stack(pair) for pair in zip(*batches, strict=True)]
    grads = jax.vmap(partial(gradient, DUAL))(*arrays)
    for x, grad_z, grad in zip(arrays[0], arrays[2], grads, strict=True):
        assert relative_error(grad, truth(DUAL, x, grad_z)) < FLOAT32_PROMISE


def rows_of_devices(size: int) -> tuple[Case, Any, Any, Any]:
    """Primal for 6 entries, dual for 40; every device's rows are of another size."""
    case = Case((16, size), (3, size), {})
    x, w, grad_z = case.given("float32")
    return case, x * jnp.geomspace(1, 100, 16)[:, None], w, grad_z


@pytest.mark.parametrize("size", [6, 12, 40])
@pytest.mark.parametrize("way", ["checked", "unchecked", "pmap", "vmap"])
def test_mapped_axes_share_the_trace(size: int, way: str, devices: Any) -> None:
    case, x, w, grad_z = rows_of_devices(size)
    parts = x.reshape(4, 4, -1), w, grad_z.reshape(4, 4, -1)
    shared = partial(gradient, case, axis_name="data")

    def summed(x: Any, w: Any, grad_z: Any) -> Any:
        return lax.psum(shared(x, w, grad_z), "data")

    if way == "vmap":
        grad = jax.vmap(summed, (0, None, 0), axis_name="data")(*parts)[0]
    elif way == "pmap":
        mapped = jax.pmap(summed, "data", in_axes=(0, None, 0), devices=devices[:4])
        grad = mapped(*parts)[0]
    else:
        is_checked = way == "checked"  # JAX itself sums a replicated kernel's gradients
        mapped = jax.shard_map(
            shared if is_checked else summed,
            mesh=mesh_of(devices, 4),
            in_specs=(P("data"), P(), P("data")),
            out_specs=P(),
            check_vma=is_checked,
        )
        grad = jax.jit(mapped)(x, w, grad_z)
    assert relative_error(grad, truth(case, x, grad_z)) < FLOAT32_PROMISE


@pytest.mark.parametrize("size", [6, 40])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("is_traced", [False, True])
def test_sharded_jit_shares_the_trace(
    size: int, kind: AxisType, is_traced: bool, devices: Any
) -> None:
    case, x, w, grad_z = rows_of_devices(size)
    expected = truth(case, x, grad_z)
    mesh = mesh_of(devices, 4, kind)
    x, grad_z = jax.device_put((x, grad_z), NamedSharding(mesh, P("data")))
    w = jax.device_put(w, NamedSharding(mesh, P()))

    def loss(w: Any, x: Any, grad_z: Any, lam: Any) -> Any:
        lam = lam if is_traced else LAM
        return (case.layer(x, w, lam=lam, relative=True) * grad_z).sum()

    grad = jax.jit(jax.grad(loss))(w, x, grad_z, LAM)
    assert relative_error(grad, expected) < FLOAT32_PROMISE


@cases
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_micro_batches_are_the_whole_batch(name: str, dtype: str) -> None:
    case = CASES[name]
    layout = "IO" if case.is_dense else case.layouts[1]
    with jax.enable_x64(dtype == "float64"):
        # Of different sizes: a mean of their own λ would be another one.
        batches = [scaled(case, dtype, 0), case.given(dtype, 1), case.given(dtype, 2)]
        w = batches[0][1]
        grad = jnp.zeros_like(w)
        sums = GramSums.zeros(int(np.prod(case.kernel[1:])), case.groups, dtype)
        for x, _, grad_z in batches:
            grad += jax.vjp(partial(case.plain, x), w)[1](grad_z)[0]
            sums += dense_sums(x) if case.is_dense else conv_sums(x, w, **case.settings)
        factor = jax.jit(partial(factorise, relative=True))(sums, jnp.float32(LAM))
        result = precondition_gradient(grad, factor, layout=layout)
    x, grad_z = (np.concatenate([batch[i] for batch in batches]) for i in (0, 2))
    # λ is a float32 here.
    expected = truth(case, x, grad_z, float(np.float32(LAM)))
    assert relative_error(result, expected) < TOLERANCES[dtype]


@pytest.mark.parametrize("case", [DENSE, DUAL], ids=["primal", "dual"])
def test_functions(case: Case) -> None:
    x, w, grad_z = scaled(case)
    expected = truth(case, x, grad_z)
    gram = x.T @ x / len(x)
    factor = factorise(gram, LAM, relative=True)

    def loss(w: Any, source: Any, **more: Any) -> Any:
        return (x @ precondition(w, source, LAM, layout="IO", **more) * grad_z).sum()

    from_rows = jax.grad(loss)(w, x, relative=True)
    assert relative_error(from_rows, expected) < FLOAT32_PROMISE
    if case is DENSE:  # of fewer rows float32 matrices lose the span
        assert relative_error(jax.grad(loss)(w, factor), expected) < FLOAT32_PROMISE
    assert relative_error(jax.grad(loss)(w, x), expected) > 0.01


def test_of_zeros_it_is_taken_as_it_is() -> None:
    for case in (DENSE, DUAL):
        x, w, grad_z = case.given("float32")
        assert not gradient(case, 0 * x, w, grad_z).any()
    with jax.enable_x64(True):
        zeros = jnp.zeros((1, 3, 3))
        (lower,) = factorise_gram(
            zeros, Damping(0.25, relative=True), np.dtype("float64")
        ).inner
    assert np.array_equal(lower, np.eye(3) / 2)


@pytest.mark.parametrize("rows", [4, 20])
def test_not_finite_input(rows: int) -> None:
    case = Case((rows, 8), (3, 8), {})
    x, w, grad_z = case.given("float32")
    for value in (np.nan, np.inf):
        grad = gradient(case, x.at[1, 2].set(value), w, grad_z)
        assert not jnp.isfinite(grad).all()


@pytest.mark.parametrize("case", [DENSE, DUAL], ids=["primal", "dual"])
def test_the_least_damping_stays(case: Case) -> None:
    x, w, grad_z = scaled(case)
    one, other = (gradient(case, x, w, grad_z, lam) for lam in (1e-30, 1e-20))
    assert np.array_equal(one, other)
    assert jnp.isfinite(one).all()
