"""The layers under JAX's transformations.

1. Values, and the gradients of input and bias, are the plain layer's to the bit.
2. λ may be traced; jit, vmap, scan, checkpoint and mixtures: `test_vmap`.
3. A second call compiles nothing, and without a kernel's gradient nothing is computed.
4. Differentiating twice takes the statistics as constants.
5. What was differentiated with respect to the input may be differentiated once more.
6. `jax.export` takes a symbolic batch with more rows than entries.
"""

from __future__ import annotations

import logging
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.tolerances import FLOAT32_PROMISE, ORACLE_RTOL, relative_error
from trainact import reference
from trainact.jax import (
    dense_sums,
    factorise,
    patch_gram,
    precondition_gradient,
    tract_conv,
    tract_dense,
)

from .cases import draw_case

pytestmark = pytest.mark.usefixtures("strict_jax")

NHWC = ("NHWC", "HWIO", "NHWC")


def conv(x, w, lam=0.1, **more):
    return tract_conv(x, w, None, lam, padding="SAME", dimension_numbers=NHWC, **more)


def draw(*shape: int, seed: int = 0) -> jax.Array:
    values = np.random.default_rng(seed).standard_normal(shape)
    return jnp.asarray(values, jnp.float64 if jax.config.jax_enable_x64 else "float32")


# Layer, input and kernel: primal, dual, and a convolution.
PROBLEMS = {
    "dense": (tract_dense, (12, 5), (5, 3)),
    "dual": (tract_dense, (4, 9), (9, 3)),
    "conv": (conv, (3, 5, 4, 2), (3, 3, 2, 4)),
}
problems = pytest.mark.parametrize("name", list(PROBLEMS))


def make(name: str):
    layer, x_shape, w_shape = PROBLEMS[name]

    def loss(w, x):
        return jnp.square(jnp.tanh(layer(x, w))).mean()

    return loss, draw(*w_shape, seed=1), draw(*x_shape)


@pytest.mark.parametrize("spatial", [0, 1, 2, 3])
def test_everything_else_is_untouched(spatial: int) -> None:
    rng = np.random.default_rng(10 + spatial)
    for _ in range(6):
        case = draw_case(rng, spatial)
        x, w, grad_z = case.given("float32")
        b = jnp.arange(1.0, case.kernel[0] + 1)

        def both(layer, x, w, b, grad_z):
            z, pull = jax.vjp(lambda x, b: layer(x, w, b), x, b)
            return z, *pull(grad_z)

        def with_kernel(layer, x, w, b, grad_z):
            z, pull = jax.vjp(layer, x, w, b)
            grad_x, _, grad_b = pull(grad_z)
            return z, grad_x, grad_b

        plain = jax.jit(partial(both, case.plain))(x, w, b, grad_z)
        treated = jax.jit(partial(with_kernel, case.layer))(x, w, b, grad_z)
        for ours, theirs in zip(treated, plain, strict=True):
            assert np.array_equal(ours, theirs), case


@problems
def test_optimised_code(name: str) -> None:
    # What users run; the other tests do without, see conftest.py.
    options = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}
    loss, w, x = make(name)
    optimised = jax.jit(jax.grad(loss), compiler_options=options)
    assert relative_error(optimised(w, x), jax.grad(loss)(w, x)) < FLOAT32_PROMISE


def compilations(caplog: pytest.LogCaptureFixture, function, *args) -> int:
    caplog.clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        jax.block_until_ready(function(*args))
    return sum("Finished XLA compilation" in r.getMessage() for r in caplog.records)


@problems
@pytest.mark.parametrize("is_compiled", [False, True])
def test_no_second_compilation(name: str, is_compiled: bool, caplog) -> None:
    layer, x_shape, w_shape = PROBLEMS[name]
    grad = jax.grad(lambda w, x, lam: layer(x, w, lam=lam).sum())
    grad = jax.jit(grad) if is_compiled else grad
    w, x, other = draw(*w_shape), draw(*x_shape), draw(*x_shape, seed=3)
    # Shapes that no other test has used.
    w, x, other = (
        jnp.tile(a, (1,) * (a.ndim - 1) + (n,)) for a, n in ((w, 7), (x, 1), (other, 1))
    )
    assert compilations(caplog, grad, w, x, 0.1) > 0
    assert compilations(caplog, grad, 2 * w, other, 0.2) <= 1  # that of 2 * w
    assert compilations(caplog, grad, 2 * w, other, 0.3) == 0


@problems
def test_without_a_kernel_gradient_there_are_no_statistics(name: str) -> None:
    loss, w, x = make(name)
    assert "cholesky" in str(jax.make_jaxpr(jax.grad(loss))(w, x))
    assert "cholesky" not in str(jax.make_jaxpr(loss)(w, x))
    assert "cholesky" not in str(jax.make_jaxpr(jax.grad(loss, argnums=1))(w, x))


@problems
@pytest.mark.parametrize("relative", [False, True])
def test_damping_may_be_traced(name: str, relative: bool) -> None:
    layer, _, _ = PROBLEMS[name]
    _, w, x = make(name)

    def loss(w, lam):
        return jnp.tanh(layer(x, w, lam=lam, relative=relative)).mean()

    numbers = (0.05, 0.4)
    truths = jnp.stack([jax.grad(loss)(w, lam) for lam in numbers])
    lams, gradient = jnp.asarray(numbers, "float32"), partial(jax.grad(loss), w)
    results = {
        "jit": (jnp.stack([jax.jit(gradient)(lam) for lam in lams]), truths),
        "vmap": (jax.vmap(gradient)(lams), truths),
        "map": (lax.map(gradient, lams), truths),
        "vmap inside": (
            jax.grad(lambda w: jax.vmap(partial(loss, w))(lams).sum())(w),
            truths.sum(0),
        ),
    }
    for way, (result, truth) in results.items():
        assert relative_error(result, truth) < FLOAT32_PROMISE, way
    assert jax.grad(loss, argnums=1)(w, lams[0]) == 0


def constant_factor_gradient(w, x, x_constant):
    """The dense layer's gradient by the formula, with statistics of another input."""
    size = x.shape[1]
    gram = x_constant.T @ x_constant / len(x) + 0.1 * jnp.eye(size, dtype=x.dtype)
    plain = jax.grad(lambda w: jnp.square(jnp.tanh(x @ w)).mean())(w)
    return jnp.linalg.solve(gram, plain)


@pytest.mark.parametrize("name", ["dense", "dual"])
@pytest.mark.parametrize("is_wide", [False, True])
def test_second_derivatives_take_statistics_as_constants(
    name: str, is_wide: bool
) -> None:
    tolerance = ORACLE_RTOL if is_wide else FLOAT32_PROMISE
    with jax.enable_x64(is_wide):
        loss, w, x = make(name)
        v = draw(*w.shape, seed=5)
        ours = jax.grad(loss)
        theirs = partial(constant_factor_gradient, x_constant=x)
        for argnum in (0, 1):  # reverse over reverse
            first, second = (
                jax.jit(jax.grad(lambda w, x, f=f: jnp.vdot(f(w, x), v), argnum))(w, x)
                for f in (ours, theirs)
            )
            assert relative_error(first, second) < tolerance
        tangents = (v, draw(*x.shape, seed=6))
        first, second = (  # forward over reverse
            jax.jit(lambda w, x, f=f: jax.jvp(f, (w, x), tangents)[1])(w, x)
            for f in (ours, theirs)
        )
        assert relative_error(first, second) < tolerance


def plain_conv(x, w):
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC)


def penalty(layer, w, x):
    """Squared gradients of the input, as in a gradient penalty."""
    return jnp.square(jax.grad(lambda x: jnp.tanh(layer(x, w)).sum())(x)).sum()


def direction(layer, w, x):
    """Squared derivatives along a direction in the input's space."""
    tangent = draw(*x.shape, seed=6)
    _, along = jax.jvp(lambda x: jnp.tanh(layer(x, w)), (x,), (tangent,))
    return jnp.square(along).sum()


@problems
@pytest.mark.parametrize("loss", [penalty, direction])
@pytest.mark.parametrize("wrap", [jax.grad, lambda f: jax.grad(jax.jit(f))])
def test_derivatives_of_input_derivatives(name: str, loss, wrap) -> None:
    # Outside the span of the dual problem's rows such a gradient has true parts.
    layer, *_ = PROBLEMS[name]
    _, w, x = make(name)
    if name == "conv":
        plain, gram = plain_conv, patch_gram(x, 3, padding="SAME", layout="NHWC")
    else:
        plain, gram = jnp.matmul, x.T @ x / len(x)
    layout = "HWIO" if name == "conv" else "IO"
    ordinary = jax.grad(partial(loss, plain))(w, x)
    truth = precondition_gradient(ordinary, factorise(gram), layout=layout)
    assert relative_error(wrap(partial(loss, layer))(w, x), truth) < FLOAT32_PROMISE


@pytest.mark.parametrize("argnums", [0, (0, 1)])
def test_what_lies_outside_the_span_of_few_rows_is_rounding(argnums) -> None:
    # Also where the input's gradient is taken beside the kernel's. 1 / λ would multiply
    # the rounding of pixels by a thousand.
    x = jnp.asarray(np.random.default_rng(0).uniform(0, 255, (16, 300)), "float32")
    grad_z = draw(16, 2)
    given = (jnp.zeros((300, 2)), x)
    loss = lambda w, x: jnp.vdot(tract_dense(x, w), grad_z)  # noqa: E731
    found = jax.tree.leaves(jax.grad(loss, argnums)(*given))[0]
    wide = (np.asarray(a, "float64") for a in (grad_z, x))
    truth = reference.tract_gradient(*wide, 0.1).T
    assert relative_error(found, truth) < FLOAT32_PROMISE


@pytest.mark.parametrize("name", ["dense", "conv", "sums"])
def test_export_with_a_symbolic_batch(name: str) -> None:
    # A convolution has more rows than entries with one image.
    constraints = [] if name == "conv" else ["batch >= 9"]
    (batch,) = jax.export.symbolic_shape("batch", constraints=constraints)
    shape = (5, 4, 2) if name == "conv" else (9,)
    w = draw(*PROBLEMS["conv" if name == "conv" else "dual"][2], seed=1)

    def gradient(w, x):
        if name == "sums":
            return precondition_gradient(w, factorise(dense_sums(x)), layout="IO")
        layer = PROBLEMS[name][0]
        return jax.grad(lambda w: jnp.square(layer(x, w)).mean())(w)

    given = (jax.ShapeDtypeStruct(s, jnp.float32) for s in (w.shape, (batch, *shape)))
    exported = jax.export.export(jax.jit(gradient))(*given)
    for size in (9, 3000):
        x = draw(size, *shape)
        found = exported.call(w, x)
        assert relative_error(found, gradient(w, x)) < FLOAT32_PROMISE, size


def test_export_is_refused_where_a_size_must_be_known() -> None:
    (size,) = jax.export.symbolic_shape("size")

    def export(layer, w, *shape):
        gradient = jax.grad(lambda w, x: layer(x, w).sum())
        arrays = [jax.ShapeDtypeStruct(s, jnp.float32) for s in (w, shape)]
        jax.export.export(jax.jit(gradient))(*arrays)

    with pytest.raises(ValueError, match="only the batch may be symbolic"):
        export(conv, (3, 3, 2, 4), 3, size, 4, 2)
    with pytest.raises(ValueError, match="the constraint 'size >= 9'"):
        export(tract_dense, (9, 3), size, 9)


def test_forward_mode_is_refused_by_jax() -> None:
    loss, w, x = make("dense")
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda w: loss(w, x), (w,), (w,))


def test_float64_is_not_left_switched_on() -> None:
    for name in PROBLEMS:
        loss, w, x = make(name)
        assert jax.grad(loss)(w, x).dtype == jnp.float32
    assert jnp.zeros(1).dtype == jnp.float32
    assert not jax.config.jax_enable_x64
