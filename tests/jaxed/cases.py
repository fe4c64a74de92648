"""Convolutions and dense layers of JAX for the tests, and what the oracle says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from trainact import reference
from trainact.jax import tract_conv, tract_dense

LETTERS = {1: "W", 2: "HW", 3: "DHW"}


@dataclass(frozen=True)
class Case:
    """A layer's settings; shapes in the order batch, channels, spatial."""

    images: tuple[int, ...]
    kernel: tuple[int, ...]  # outputs, inputs, spatial; outputs, inputs if dense
    settings: dict[str, Any]
    pairs: tuple[tuple[int, int], ...] = ()
    scales: tuple[float, ...] = (1.0,)  # of the images' channels, one for each group

    @property
    def is_dense(self) -> bool:
        return len(self.kernel) == 2

    @property
    def groups(self) -> int:
        return self.settings.get("feature_group_count", 1)

    @property
    def layouts(self) -> tuple[str, str, str]:
        spatial = LETTERS[len(self.kernel) - 2]
        default = ("NC" + spatial, "OI" + spatial, "NC" + spatial)
        return self.settings.get("dimension_numbers") or default

    def arrays(self, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images, kernel and output gradient in float64 and canonical order."""
        rng = np.random.default_rng(seed)
        x, w = rng.standard_normal(self.images), rng.standard_normal(self.kernel)
        size = [1] * x.ndim
        axis = x.ndim - len(self.kernel) + 1  # of the channels
        size[axis] = -1
        scale = np.repeat(self.scales, x.shape[axis] // len(self.scales))
        grad_z = rng.standard_normal((*self.output_shape(),))
        return x * scale.reshape(size), w, grad_z

    def output_shape(self) -> tuple[int, ...]:
        if self.is_dense:
            return (*self.images[:-1], self.kernel[0])
        sizes = [
            (size + sum(pair) - d * (k - 1) - 1) // s + 1
            for size, pair, k, s, d in zip(
                self.images[2:],
                self.pairs,
                self.kernel[2:],
                self.each("strides"),
                self.each("rhs_dilation"),
                strict=True,
            )
        ]
        return (self.images[0], self.kernel[0], *sizes)

    def each(self, name: str) -> tuple[int, ...]:
        value = self.settings.get(name, 1)
        num = len(self.kernel) - 2
        return (value,) * num if isinstance(value, int) else tuple(value)

    def given(self, dtype: Any, seed: int = 0) -> tuple[jax.Array, ...]:
        """Images, kernel and output gradient as the layer takes them."""
        x, w, grad_z = self.arrays(seed)
        if self.is_dense:
            arrays: Any = (x, w.T, grad_z)
        else:
            arrays = [
                to_layout(array, layout, letters)
                for array, layout, letters in zip(
                    (x, w, grad_z), self.layouts, ("NC", "OI", "NC"), strict=True
                )
            ]
        return tuple(jnp.asarray(array.astype(dtype)) for array in arrays)

    def layer(self, x, w, b=None, lam=0.1, **more):
        if self.is_dense:
            return tract_dense(x, w, b, lam, **more)
        return tract_conv(x, w, b, lam, **self.settings, **more)

    def plain(self, x, w, b=None):
        if self.is_dense:
            z = lax.dot_general(x, w, (((x.ndim - 1,), (0,)), ((), ())))
            return z if b is None else z + b.reshape((1,) * (z.ndim - 1) + b.shape)
        z = lax.conv_general_dilated(
            x,
            w,
            self.each("strides"),
            self.pairs,
            rhs_dilation=self.each("rhs_dilation"),
            feature_group_count=self.groups,
            dimension_numbers=self.settings.get("dimension_numbers"),
        )
        if b is None:
            return z
        return z + to_layout(b.reshape(1, -1, *(1,) * (z.ndim - 2)), self.layouts[2])

    def gradient(self, x, w, grad_z, lam=0.1, **more):
        """TrAct's gradient of the kernel, as the layer gives it."""
        _, pull = jax.vjp(lambda w: self.layer(x, w, None, lam, **more), w)
        return pull(grad_z)[0]

    def rows(self, x: np.ndarray) -> np.ndarray:
        """The oracle's rows, ``[groups, N, P]``, of canonical images."""
        if self.is_dense:
            return x.reshape(1, -1, x.shape[-1])
        return reference.unfold(
            crop(x, self.pairs),
            self.kernel[2:],
            self.each("strides"),
            [(max(0, lo), max(0, hi)) for lo, hi in self.pairs],
            self.each("rhs_dilation"),
            self.groups,
        )

    def truth(self, dtype, seed: int = 0, **damping) -> np.ndarray:
        """The oracle's gradient for what is `given`."""
        x, _, grad_z = (a.astype(dtype).astype("float64") for a in self.arrays(seed))
        return self.oracle(x, grad_z, **damping)

    def oracle(self, x, grad_z, lam: float = 0.1, relative: bool = False) -> np.ndarray:
        """TrAct's gradient from canonical arrays, in the layer's own layout."""
        if not self.is_dense:
            grad_z = np.moveaxis(grad_z, 1, -1)
        grads = grad_z.reshape(-1, self.groups, self.kernel[0] // self.groups)
        blocks = [
            reference.tract_gradient(grad_NO, x_NP, lam * size_of(x_NP, relative))
            for grad_NO, x_NP in zip(
                np.moveaxis(grads, 1, 0), self.rows(x), strict=True
            )
        ]
        grad = np.concatenate(blocks).reshape(self.kernel)
        return grad.T if self.is_dense else to_layout(grad, self.layouts[1], "OI")


def size_of(x_NP: np.ndarray, relative: bool) -> float:
    """The unit of λ; nothing but zeros has no size."""
    return float(np.mean(x_NP**2)) or 1.0 if relative else 1.0


def to_layout(array, layout: str, first: str = "NC"):
    """Put canonical axes where a layout has them."""
    canonical = first + "".join(c for c in layout if c not in first)
    return array.transpose([canonical.index(letter) for letter in layout])


def crop(x: np.ndarray, pairs) -> np.ndarray:
    """Negative padding, which the oracle does not know."""
    slices = [
        slice(max(0, -lo), size - max(0, -hi))
        for size, (lo, hi) in zip(x.shape[2:], pairs, strict=True)
    ]
    return x[(slice(None), slice(None), *slices)]


def draw_case(rng: np.random.Generator, spatial: int) -> Case:
    """Draw settings that have at least one output position; 0 spatial is dense."""
    if spatial == 0:
        features, outputs = (int(n) for n in rng.integers(1, (24, 5)))
        lead = tuple(int(n) for n in rng.integers(1, 7, size=rng.integers(0, 3)))
        return Case((*lead, features), (outputs, features), {})
    while True:
        case = _propose(rng, spatial)
        if min(case.output_shape()) > 0:
            return case


def _propose(rng: np.random.Generator, spatial: int) -> Case:
    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(int(n) for n in rng.integers(low, high, size=spatial))

    groups = int(rng.choice([1, 1, 1, 2, 3]))
    inputs = int(rng.integers(1, 4))
    size = each(2, 9 if spatial < 3 else 6)
    kernel = each(1, 5 if spatial < 3 else 4)
    strides, dilation = each(1, 4), each(1, 3)
    padding, pairs = _draw_padding(rng, size, kernel, strides, dilation)
    letters = LETTERS[spatial]
    settings = {
        "strides": strides,
        "padding": padding,
        "rhs_dilation": dilation,
        "feature_group_count": groups,
        "dimension_numbers": (
            _shuffled(rng, "NC" + letters, letters),
            _shuffled(rng, "OI" + letters, letters),
            _shuffled(rng, "NC" + letters, letters),
        ),
    }
    if rng.random() < 0.2:
        settings["dimension_numbers"] = None
    batch, outputs = int(rng.integers(1, 4)), groups * int(rng.integers(1, 3))
    return Case(
        (batch, groups * inputs, *size), (outputs, inputs, *kernel), settings, pairs
    )


def _shuffled(rng: np.random.Generator, layout: str, letters: str) -> str:
    """Channels last, or first, or in any place; spatial letters stay in order."""
    others = [c for c in layout if c not in letters]
    kind = rng.integers(3)
    if kind == 0:
        return layout
    if kind == 1 and others[0] == "N":
        return f"N{letters}C"
    if kind == 1:
        return f"{letters}IO"
    order = list(layout)
    rng.shuffle(order)
    spatial = iter(letters)
    return "".join(next(spatial) if c in letters else c for c in order)


def _draw_padding(rng, size, kernel, strides, dilation):
    """Padding as the user gives it, and the pairs that it means (JAX's definition)."""
    kind = rng.integers(6)
    if kind < 2:
        low, high = ((0, 3), (-1, 3))[kind]
        pairs = tuple(
            (int(lo), int(hi)) for lo, hi in rng.integers(low, high, (len(size), 2))
        )
        return pairs, pairs
    if kind == 2:
        number = int(rng.integers(0, 3))
        return number, ((number, number),) * len(size)
    if kind == 3:
        return "VALID", ((0, 0),) * len(size)
    pairs = []
    for n, k, s, d in zip(size, kernel, strides, dilation, strict=True):
        total = max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n)
        less, more = total // 2, total - total // 2
        pairs.append((less, more) if kind == 4 else (more, less))
    return ("SAME" if kind == 4 else "SAME_LOWER"), tuple(pairs)
