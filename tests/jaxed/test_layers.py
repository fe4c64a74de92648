"""TrAct on layers of Flax NNX, Flax Linen and Equinox."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import linen as nn
from flax import nnx

import trainact.jax.equinox
import trainact.jax.linen
import trainact.jax.nnx
from tests.tolerances import FLOAT32_PROMISE, relative_error
from trainact.jax import (
    ConvGeneralDilated,
    DotGeneral,
    factorise,
    precondition,
    tract_conv,
    tract_dense,
)

LAM = 0.2
relatives = pytest.mark.parametrize("relative", [False, True])
NUMBERS = ("NHWC", "HWIO", "NHWC")


@pytest.fixture(autouse=True)
def strict_jax() -> None:
    """Optax needs implicit conversions: not in this module."""


def images(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape) + 1.0


def close(found: Any, expected: Any) -> None:
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-5, atol=2e-5)


class Network(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, **settings: Any) -> None:
        self.first = nnx.Conv(3, 8, (3, 3), rngs=rngs, **settings)
        self.head = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(nnx.relu(self.first(x)).mean((1, 2)))


def network() -> Network:
    return Network(nnx.Rngs(0))


def loss_of(model: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    return (model(x) ** 2).sum()


def grads_of(model: nnx.Module, x: jax.Array) -> Any:
    return nnx.to_pure_dict(nnx.grad(loss_of)(model, x))


CONVOLUTIONS: list[dict[str, Any]] = [
    {},
    {"strides": 2, "padding": "VALID", "kernel_dilation": 2},
    {"padding": 2, "use_bias": False},
    {"padding": ((0, 1), (2, 0))},
    {"padding": "CIRCULAR"},
    {"padding": "REFLECT"},
    {"feature_group_count": 3, "out": 6},
    {"feature_group_count": 3, "out": 6, "relative": True},
]


@pytest.mark.parametrize("settings", CONVOLUTIONS, ids=str)
def test_nnx_convolution(settings: dict[str, Any]) -> None:
    settings = {**settings}
    out, relative = settings.pop("out", 8), settings.pop("relative", False)
    layer = nnx.Conv(3, out, (3, 3), rngs=nnx.Rngs(0), **settings)
    x = images(4, 9, 9, 3)
    plain, value = grads_of(layer, x), layer(x)
    trainact.jax.nnx.apply(layer, LAM, relative=relative)
    found = grads_of(layer, x)
    assert jnp.array_equal(layer(x), value)
    padding: Any = settings.get("padding", "SAME")
    seen = x
    if padding in ("CIRCULAR", "REFLECT"):
        mode = {"CIRCULAR": "wrap", "REFLECT": "reflect"}[padding]
        seen = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode=mode)
        padding = "VALID"
    bias = layer.bias[...] if layer.bias is not None else None

    def loss(kernel: jax.Array) -> jax.Array:
        z = tract_conv(
            seen,
            kernel,
            bias,
            LAM,
            relative=relative,
            strides=settings.get("strides", 1),
            padding=padding,
            rhs_dilation=settings.get("kernel_dilation", 1),
            feature_group_count=settings.get("feature_group_count", 1),
            dimension_numbers=NUMBERS,
        )
        return (z**2).sum()

    close(found["kernel"], jax.grad(loss)(layer.kernel[...]))
    assert not np.allclose(found["kernel"], plain["kernel"], rtol=1e-2)
    if bias is not None:
        assert jnp.array_equal(found["bias"], plain["bias"])


def test_nnx_more_than_one_batch_axis_and_none() -> None:
    layer = trainact.jax.nnx.apply(nnx.Conv(3, 8, (3, 3), rngs=nnx.Rngs(0)), LAM)
    x = images(2, 3, 5, 5, 3)
    close(grads_of(layer, x), grads_of(layer, x.reshape(6, 5, 5, 3)))
    close(grads_of(layer, x[0, 0]), grads_of(layer, x[0, :1]))


@relatives
@pytest.mark.parametrize("rows", [(4,), (16,), (2, 9)])
def test_nnx_linear(rows: tuple[int, ...], relative: bool) -> None:
    layer = nnx.Linear(6, 4, rngs=nnx.Rngs(0))
    general = nnx.LinearGeneral((2, 3), (2, 2), axis=(-2, -1), rngs=nnx.Rngs(0))
    general.kernel[...] = layer.kernel[...].reshape(2, 3, 2, 2)
    x = images(*rows, 6)
    plain, value = grads_of(layer, x), layer(x)
    for one in (layer, general):
        trainact.jax.nnx.apply(one, LAM, relative=relative)
    found = grads_of(layer, x)
    assert jnp.array_equal(layer(x), value)
    ours = partial(tract_dense, lam=LAM, relative=relative)
    expected = jax.grad(lambda w: (ours(x, w) ** 2).sum())
    close(found["kernel"], expected(layer.kernel[...]))
    assert jnp.array_equal(found["bias"], plain["bias"])
    folded = grads_of(general, x.reshape(*rows, 2, 3))["kernel"]
    close(folded.reshape(6, 4), found["kernel"])


def test_nnx_model_stays_what_it_was(tmp_path: Path) -> None:
    plain, model = network(), trainact.jax.nnx.apply(network(), LAM, layer="first")
    assert list(trainact.jax.nnx.tract_layers(model)) == ["first"]
    state, ours = nnx.state(plain, nnx.Param), nnx.state(model, nnx.Param)
    assert jax.tree.structure(state) == jax.tree.structure(ours)
    checkpointer = ocp.StandardCheckpointer()
    for number, (saved, other) in enumerate(((plain, model), (model, plain))):
        path = tmp_path / str(number)
        values = nnx.state(saved, nnx.Param)
        values = jax.tree.map(lambda value: value + 1, values)
        checkpointer.save(path, values)
        checkpointer.wait_until_finished()
        target = jax.tree.map(jnp.zeros_like, nnx.state(other, nnx.Param))
        nnx.update(other, checkpointer.restore(path, target))
        close(nnx.state(other, nnx.Param), values)
    checkpointer.close()
    trainact.jax.nnx.remove(model)
    assert trainact.jax.nnx.tract_layers(model) == {}
    assert model.first.conv_general_dilated is plain.first.conv_general_dilated
    x = images(2, 8, 8, 3)
    nnx.update(model, nnx.state(plain, nnx.Param))
    close(grads_of(model, x), grads_of(plain, x))


def test_nnx_only_the_first_layers_gradient_changes() -> None:
    x = images(4, 8, 8, 3)
    expected = grads_of(network(), x)
    model = trainact.jax.nnx.apply(network(), LAM, layer="first")
    found = grads_of(model, x)
    changed = {
        (layer, name)
        for layer, values in found.items()
        for name, value in values.items()
        if not np.allclose(value, expected[layer][name], rtol=1e-5, atol=1e-6)
    }
    assert changed == {("first", "kernel")}


def test_nnx_training_step_compiles_once_and_takes_the_papers_sgd() -> None:
    """TrAct w/ SGD: the first layer by SGD, the rest by Adam (Fig. 9)."""
    model = trainact.jax.nnx.apply(network(), LAM, layer="first")
    traces = []

    def label(path: tuple[Any, ...], _: Any) -> str:
        return "first" if "first" in jax.tree_util.keystr(path) else "rest"

    params = nnx.state(model, nnx.Param)
    labels = jax.tree_util.tree_map_with_path(
        label, params, is_leaf=lambda value: isinstance(value, nnx.Variable)
    )
    transform = optax.multi_transform(
        {"first": optax.sgd(0.1), "rest": optax.adam(1e-3)}, labels
    )
    optimizer = nnx.Optimizer(model, transform, wrt=nnx.Param)

    @nnx.jit
    def step(model: Network, optimizer: Any, x: jax.Array) -> Any:
        traces.append(None)
        grads = nnx.grad(loss_of)(model, x)
        optimizer.update(model, grads)
        return grads

    before = model.first.kernel[...]
    grads = nnx.to_pure_dict(step(model, optimizer, images(4, 8, 8, 3)))
    close(model.first.kernel[...], before - 0.1 * grads["first"]["kernel"])
    step(model, optimizer, images(4, 8, 8, 3, seed=1))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (trainact.jax.nnx.apply, "which layer is the first? Name it with"),
        (lambda m: trainact.jax.nnx.apply(m, layer="frist"), "Did you mean 'first'?"),
        (lambda m: trainact.jax.nnx.apply(m, layer=m), "the given Network is no layer"),
        (
            lambda m: trainact.jax.nnx.apply(m, 0.0, "first"),
            "lam=0.0 is not a positive",
        ),
        (
            lambda m: trainact.jax.nnx.apply(
                trainact.jax.nnx.apply(m, layer="first"), layer=m.first
            ),
            "'first' is under TrAct already",
        ),
        (
            lambda _: trainact.jax.nnx.apply(
                nnx.Conv(1, 1, (3,), input_dilation=2, rngs=nnx.Rngs(0))
            )(images(1, 5, 1)),
            "a transposed one is no first layer",
        ),
        (
            lambda _: trainact.jax.nnx.apply(
                nnx.LinearGeneral(3, 2, batch_axis={0: 2}, rngs=nnx.Rngs(0))
            )(images(2, 3)),
            "TrAct needs one weight for all rows",
        ),
        (
            lambda _: trainact.jax.nnx.apply(
                nnx.LinearGeneral(
                    3, 2, dot_general_cls=lambda: jax.lax.dot_general, rngs=nnx.Rngs(0)
                )
            ),
            "give it the operation as dot_general instead",
        ),
        (
            lambda _: trainact.jax.nnx.apply(nnx.LayerNorm(3, rngs=nnx.Rngs(0))),
            "It has no Conv, Linear or LinearGeneral that TrAct could train",
        ),
    ],
)
def test_nnx_errors(call: Callable[[Network], Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        call(network())


class Centred(nnx.Conv):
    """A convolution of its own with the layer's kernel."""

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...]
        return jax.lax.conv_general_dilated(
            x, kernel - kernel.mean(), (1, 1), "SAME", dimension_numbers=NUMBERS
        )


class Doubled(nnx.Linear):
    """The layer's own product in a call of the subclass."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return 2 * super().__call__(x)


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (lambda rngs: Centred(3, 8, (3, 3), rngs=rngs), "ConvGeneralDilated(lam=...)"),
        (lambda rngs: Doubled(3, 8, rngs=rngs), "self.dot_general, set this"),
    ],
)
def test_nnx_refuses_a_class_that_overrides_the_call(layer, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        trainact.jax.nnx.apply(layer(nnx.Rngs(0)))


def test_nnx_layers_whose_call_uses_the_operation() -> None:
    x = images(16, 6)
    plain = trainact.jax.nnx.apply(nnx.Linear(6, 4, rngs=nnx.Rngs(0)), LAM)
    lora = nnx.LoRALinear(6, 4, lora_rank=2, rngs=nnx.Rngs(0))
    doubled = Doubled(6, 4, rngs=nnx.Rngs(0))
    doubled.dot_general = DotGeneral(LAM)
    expected = nnx.grad(lambda m: m(x).sum())(plain)["kernel"][...]
    for layer, times in ((trainact.jax.nnx.apply(lora, LAM), 1), (doubled, 2)):
        found = nnx.grad(lambda m: m(x).sum())(layer)["kernel"][...]
        close(found, times * expected)


class Plain(nn.Module):
    conv: Any = nn.Conv
    dense: Any = nn.Dense

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(self.conv(8, (3, 3), strides=2)(x))
        return self.dense(5)(x.mean((1, 2)))


@relatives
def test_linen_layers_have_linens_names_and_parameters(relative: bool) -> None:
    x = images(4, 8, 8, 3)
    plain = Plain()
    kinds = trainact.jax.linen.Conv, trainact.jax.linen.Dense
    ours = Plain(*(partial(kind, lam=LAM, relative=relative) for kind in kinds))
    params = plain.init(jax.random.key(0), x)
    again = ours.init(jax.random.key(0), x)
    assert jax.tree.structure(params) == jax.tree.structure(again)
    assert set(params["params"]) == {"Conv_0", "Dense_0"}
    close(again, params)
    assert jnp.array_equal(plain.apply(params, x), ours.apply(params, x))

    def loss(conv: jax.Array, dense: jax.Array) -> jax.Array:
        settings = {"lam": LAM, "relative": relative}
        z = tract_conv(
            x,
            conv,
            params["params"]["Conv_0"]["bias"],
            strides=2,
            padding="SAME",
            dimension_numbers=NUMBERS,
            **settings,
        )
        return (tract_dense(nn.relu(z).mean((1, 2)), dense, **settings) ** 2).sum()

    found = jax.grad(lambda p: (ours.apply(p, x) ** 2).sum())(params)
    kernels, wanted = (
        [grads["params"][name]["kernel"] for name in ("Conv_0", "Dense_0")]
        for grads in (params, found)
    )
    close(wanted, jax.grad(loss, (0, 1))(*kernels))


def tripled(operation: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    return lambda *args, **settings: 3 * operation(*args, **settings)


@pytest.mark.parametrize("is_class", [False, True])
@pytest.mark.parametrize("name", ["dot_general", "conv_general_dilated"])
def test_linen_layers_keep_an_operation_of_the_users(name: str, is_class: bool) -> None:
    own = tripled(getattr(jax.lax, name))
    settings = {f"{name}_cls": lambda: own} if is_class else {name: own}
    kind, args, x = {
        "dot_general": ("Dense", (4,), images(16, 6)),
        "conv_general_dilated": ("Conv", (4, (3, 3)), images(2, 5, 5, 3)),
    }[name]
    make = getattr(trainact.jax.linen, kind)
    layer, usual = make(*args, lam=LAM, **settings), make(*args, lam=LAM)
    plain = getattr(nn, kind)(*args, **settings)
    params = plain.init(jax.random.key(0), x)
    assert jnp.array_equal(layer.apply(params, x), plain.apply(params, x))

    def kernel_gradient(module: nn.Module) -> jax.Array:
        grads = jax.grad(lambda params: module.apply(params, x).sum())(params)
        return grads["params"]["kernel"]

    found, expected = kernel_gradient(layer), 3 * kernel_gradient(usual)
    assert relative_error(found, expected) < FLOAT32_PROMISE


@pytest.mark.parametrize("library", ["nnx", "linen", "equinox"])
def test_complex_layers_are_refused(library: str) -> None:
    x = images(16, 6).astype("complex64")
    if library == "nnx":
        layer = nnx.Linear(6, 4, param_dtype="complex64", rngs=nnx.Rngs(0))
        trainact.jax.nnx.apply(layer)
    elif library == "linen":
        module = trainact.jax.linen.Dense(4, param_dtype="complex64")
        layer = lambda x: module.init(jax.random.key(0), x)  # noqa: E731
    else:
        plain = eqx.nn.Linear(6, 4, dtype="complex64", key=jax.random.key(0))
        treated = trainact.jax.equinox.apply(plain, lambda m: m)
        layer = jax.vmap(treated, axis_name="batch")
    with pytest.raises(ValueError, match="complex64, but TrAct is for real numbers"):
        layer(x)


class Small(eqx.Module):
    first: eqx.nn.Conv2d
    head: eqx.nn.Linear

    def __init__(self, key: jax.Array, **settings: Any) -> None:
        one, two = jax.random.split(key)
        self.first = eqx.nn.Conv2d(3, 8, 3, key=one, **settings)
        self.head = eqx.nn.Linear(8, 5, key=two)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(jax.nn.relu(self.first(x)).mean((1, 2)))


def layers_of(model: Small) -> tuple[Any, Any]:
    return model.first, model.head


@relatives
@pytest.mark.parametrize(
    "settings",
    [{}, {"stride": 2, "padding": 1}, {"padding": 1, "padding_mode": "CIRCULAR"}],
    ids=str,
)
def test_equinox_sees_the_whole_batch(settings: dict[str, Any], relative) -> None:
    plain = Small(jax.random.key(0), **settings)
    damping = {"lam": LAM, "relative": relative}
    model = trainact.jax.equinox.apply(plain, lambda m: m.first, **damping)
    x = images(6, 3, 8, 8)
    batched = jax.vmap(model, axis_name="batch")
    assert jnp.array_equal(batched(x), jax.vmap(plain)(x))
    found = eqx.filter_grad(lambda m: (jax.vmap(m, axis_name="batch")(x) ** 2).sum())(
        model
    )
    expected = eqx.filter_grad(lambda m: (jax.vmap(m)(x) ** 2).sum())(plain)
    seen, padding = x, settings.get("padding", 0)
    if "padding_mode" in settings:
        seen = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="wrap")
        padding = 0

    def loss(weight: jax.Array) -> jax.Array:
        strides = settings.get("stride", 1)
        z = tract_conv(seen, weight, strides=strides, padding=padding, **damping)
        pooled = jax.nn.relu(z + plain.first.bias).mean((2, 3))
        return ((pooled @ plain.head.weight.T + plain.head.bias) ** 2).sum()

    close(found.first.weight, jax.grad(loss)(plain.first.weight))
    close(found.head, expected.head)
    close(found.first.bias, expected.first.bias)


@relatives
def test_equinox_linear_and_both_at_once(relative: bool) -> None:
    plain = eqx.nn.MLP(4, 2, 8, 1, key=jax.random.key(0))
    model = trainact.jax.equinox.apply(
        plain, lambda m: m.layers[0], LAM, relative=relative
    )
    x = images(16, 4)

    def loss(model: Any) -> jax.Array:
        return (jax.vmap(model, axis_name="batch")(x) ** 2).sum()

    found, expected = eqx.filter_grad(loss)(model), eqx.filter_grad(loss)(plain)
    lam = LAM * (x**2).mean() if relative else LAM
    inverse = jnp.linalg.inv(x.T @ x / 16 + lam * jnp.eye(4))
    close(found.layers[0].weight, expected.layers[0].weight @ inverse)
    close(found.layers[1], expected.layers[1])
    both = trainact.jax.equinox.apply(Small(jax.random.key(0)), layers_of)
    kinds = [type(layer).__name__ for layer in layers_of(both)]
    assert kinds == ["TrActConv", "TrActLinear"]
    back = trainact.jax.equinox.remove(both, layers_of)
    assert jax.tree.structure(back) == jax.tree.structure(Small(jax.random.key(0)))


def test_equinox_files_fit_both_ways(tmp_path: Path) -> None:
    plain = Small(jax.random.key(0))
    model = trainact.jax.equinox.apply(Small(jax.random.key(1)), layers_of)
    for saved, other in ((plain, model), (model, plain)):
        eqx.tree_serialise_leaves(tmp_path / "model.eqx", saved)
        read = eqx.tree_deserialise_leaves(tmp_path / "model.eqx", other)
        close(eqx.filter(read, eqx.is_array), eqx.filter(saved, eqx.is_array))


def test_equinox_trains_under_filter_jit_without_compiling_again() -> None:
    model = trainact.jax.equinox.apply(Small(jax.random.key(0)), lambda m: m.first)
    transform = optax.adam(1e-3)
    state, traces = transform.init(eqx.filter(model, eqx.is_array)), []

    @eqx.filter_jit
    def step(model: Small, state: Any, x: jax.Array) -> tuple[Any, Any]:
        traces.append(None)
        loss = lambda m: (jax.vmap(m, axis_name="batch")(x) ** 2).sum()  # noqa: E731
        grads = eqx.filter_grad(loss)(model)
        updates, state = transform.update(grads, state)
        return eqx.apply_updates(model, updates), state

    for seed in range(3):
        model, state = step(model, state, images(4, 3, 8, 8, seed=seed))
    assert len(traces) == 1


def test_equinox_errors() -> None:
    plain = Small(jax.random.key(0))
    model = trainact.jax.equinox.apply(plain, lambda m: m.first)
    x = images(2, 3, 8, 8)
    grad = eqx.filter_grad(lambda m: jax.vmap(m)(x).sum())
    with pytest.raises(ValueError, match="call the model as jax"):
        grad(model)
    alone = trainact.jax.equinox.apply(plain, lambda m: m.first, batch_axis=None)
    assert grad(alone).first.weight.shape == (8, 3, 3, 3)
    with pytest.raises(ValueError, match="gives a TrActConv: expected a Conv"):
        trainact.jax.equinox.apply(model, lambda m: m.first)
    with pytest.raises(ValueError, match="gives a Conv2d, which is not under"):
        trainact.jax.equinox.remove(plain, lambda m: m.first)
    with pytest.raises(ValueError, match="lam=-1"):
        trainact.jax.equinox.apply(plain, lambda m: m.first, -1)


class Gained(eqx.nn.Conv2d):
    """A subclass with a call and a field of its own."""

    gain: jax.Array

    def __init__(self, *args: Any, key: jax.Array) -> None:
        super().__init__(*args, key=key)
        self.gain = jnp.full((), 2.0)

    def __call__(self, x: jax.Array, *, key: Any = None) -> jax.Array:
        return self.gain * super().__call__(x, key=key)


class Square(eqx.nn.Conv2d):
    """A subclass with a constructor of its own."""

    def __init__(self, key: jax.Array) -> None:
        super().__init__(3, 8, 3, key=key)


def test_equinox_subclasses() -> None:
    with pytest.raises(ValueError, match=r"gives a Gained.*use trainact\.jax"):
        trainact.jax.equinox.apply(
            Gained(3, 8, 3, key=jax.random.key(0)), lambda layer: layer
        )
    plain = Square(jax.random.key(0))
    layer = trainact.jax.equinox.apply(plain, lambda layer: layer)
    back = trainact.jax.equinox.remove(layer, lambda layer: layer)
    assert jax.tree.structure(back) == jax.tree.structure(plain)


class Patches(eqx.Module):
    """A layer that the model itself maps over the patches of an image."""

    linear: eqx.nn.Linear
    axis_name: str | None = eqx.field(static=True, default=None)

    def __call__(self, patches: jax.Array) -> jax.Array:
        return jax.vmap(self.linear, axis_name=self.axis_name)(patches)


def weight_gradient(model: Any, x: jax.Array, axis_name: str | None) -> jax.Array:
    def loss(model: Any) -> jax.Array:
        return jax.vmap(model, axis_name=axis_name)(x).sum()

    return eqx.filter_grad(loss)(model).linear.weight


def weight_of(layer: Any) -> jax.Array:
    return layer.weight


def over_batches(batches: jax.Array) -> jax.Array:
    """TrAct's gradient of a sum of outputs, summed over batches of rows."""

    def loss(weight: jax.Array, rows: jax.Array) -> jax.Array:
        return tract_dense(rows, weight.T, lam=LAM).sum()

    return sum(jax.grad(loss)(jnp.zeros((5, 4)), rows) for rows in batches)


def test_equinox_layers_mapped_inside_the_model() -> None:
    linear, x = eqx.nn.Linear(4, 5, key=jax.random.key(0)), images(8, 3, 4)

    def treated(model: Any, **settings: Any) -> Any:
        is_inside = isinstance(model, Patches)
        where = (lambda m: m.linear) if is_inside else (lambda m: m)
        return trainact.jax.equinox.apply(model, where, LAM, **settings)

    with pytest.raises(ValueError, match=r"maps 3 inputs .* name the axis"):
        weight_gradient(treated(Patches(linear)), x, "batch")
    # The ways that the message gives, and batches outside of the named axis.
    named = treated(Patches(linear, "patches"), axis_name="patches")
    close(weight_gradient(named, x, "batch"), over_batches(x.reshape(1, 24, 4)))
    alone = treated(Patches(linear), batch_axis=None, axis_name="batch")
    close(weight_gradient(alone, x, "batch"), over_batches(x.swapaxes(0, 1)))
    outside = treated(Patches(linear, "patches"), batch_axis="patches")
    close(weight_gradient(outside, x, None), over_batches(x))
    # Around a layer that is the whole model, every axis is the caller's own.
    with pytest.warns(UserWarning, match="name the axis"):
        found = eqx.filter_grad(
            lambda m: jax.vmap(jax.vmap(m), axis_name="batch")(x).sum()
        )(treated(linear))
    close(found.weight, over_batches(x.swapaxes(0, 1)))


@pytest.mark.parametrize("batch_axis", ["batch", None])
def test_equinox_gradient_penalty(batch_axis: str | None) -> None:
    x, plain = images(3, 9), eqx.nn.Linear(9, 4, key=jax.random.key(0))
    model = trainact.jax.equinox.apply(plain, lambda m: m, LAM, batch_axis)

    def penalties(model: Any) -> jax.Array:
        def penalty(x: jax.Array) -> jax.Array:
            grad = jax.grad(lambda x: jnp.tanh(model(x)).sum())(x)
            return (grad**2).sum()

        return jax.vmap(penalty, axis_name="batch")(x)

    each = jax.jacrev(lambda weight: penalties(eqx.tree_at(weight_of, plain, weight)))
    expected = np.zeros((4, 9))
    for row, gradient in zip(x, each(plain.weight), strict=True):
        rows = np.asarray(x if batch_axis else row[None], "float64")
        gram = rows.T @ rows / len(rows) + LAM * np.eye(9)
        expected += np.linalg.solve(gram, gradient.T).T
    found = eqx.filter_grad(lambda m: penalties(m).sum())(model).weight
    assert relative_error(found, expected) < FLOAT32_PROMISE


def test_equinox_layers_of_an_ensemble() -> None:
    x, keys = images(8, 4), jax.random.split(jax.random.key(0), 3)
    layers = eqx.filter_vmap(lambda key: eqx.nn.Linear(4, 5, key=key))(keys)

    class Ensemble(eqx.Module):
        linear: eqx.nn.Linear

        def __call__(self, x: jax.Array) -> jax.Array:
            inputs = jnp.stack([x, 2 * x, 3 * x])
            return eqx.filter_vmap(lambda layer, x: layer(x))(self.linear, inputs)

    model = trainact.jax.equinox.apply(Ensemble(layers), lambda m: m.linear, LAM)
    found = eqx.filter_grad(lambda m: jax.vmap(m, axis_name="batch")(x).sum())(model)
    expected = jnp.stack([over_batches((scale * x)[None]) for scale in (1, 2, 3)])
    close(found.linear.weight, expected)


def test_operations_are_equal_by_value() -> None:
    for kind in (ConvGeneralDilated, DotGeneral):
        for settings in ({}, {"relative": True}):
            assert kind(0.1, **settings) == kind(0.1, **settings)
            assert hash(kind(0.1, **settings)) == hash(kind(0.1, **settings))
        assert kind(0.1) != kind(0.2)
        assert kind(relative=True) != kind()
        assert "(lam=0.1, relative=True, " in repr(kind(relative=True))
    with pytest.raises(ValueError, match="lam=0"):
        DotGeneral(0)


X, W = np.ones((4, 3), "float32"), np.ones((3, 2), "float32")
ENTRANCES: list[Callable[..., Any]] = [
    partial(tract_dense, X, W),
    partial(tract_conv, X[None, None], W[None, None, :2], padding="SAME"),
    partial(factorise, X[:3]),
    partial(precondition, W, X, layout="IO"),
    ConvGeneralDilated,
    DotGeneral,
    lambda relative: trainact.jax.nnx.apply(
        network(), layer="first", relative=relative
    ),
    partial(trainact.jax.linen.Conv, 2, (3, 3)),
    partial(trainact.jax.linen.Dense, 2),
    lambda relative: trainact.jax.equinox.apply(
        Small(jax.random.key(0)), layers_of, relative=relative
    ),
]


@pytest.mark.parametrize("call", ENTRANCES)
def test_what_says_relative_is_a_bool(call: Callable[..., Any]) -> None:
    for value in ("yes", 1, None, 0.1):
        with pytest.raises(TypeError, match=r"relative=.* is not True or False: give"):
            call(relative=value)
    with pytest.raises(TypeError, match=r"relative=.* is not True or False"):
        jax.jit(lambda value: call(relative=value))(True)  # it cannot be traced


def test_an_empty_batch_trains_nothing() -> None:
    w, numbers = images(3, 2), (((1,), (0,)), ((), ()))
    z, pull = jax.vjp(lambda w: DotGeneral()(images(0, 3), w, numbers), w)
    assert z.shape == (0, 2)
    (grad,) = pull(z)
    assert not grad.any()
