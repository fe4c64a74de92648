"""Whole networks of Flax NNX, whose jitted steps `jax_steps` measures."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
from flax import nnx

CLASSES = 1000


class Unit(nnx.Module):
    """Convolution and batch norm."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, rngs: nnx.Rngs
    ) -> None:
        size = (kernel, kernel)
        make = partial(nnx.Conv, strides=stride, use_bias=False, rngs=rngs)
        self.conv = make(inputs, outputs, size)
        self.norm = nnx.BatchNorm(outputs, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.conv(x))


class Residual(nnx.Module):
    """Units with a shortcut: two of 3x3, or the bottleneck's 1x1, 3x3, 1x1."""

    def __init__(
        self, inputs: int, width: int, stride: int, bottleneck: bool, rngs: nnx.Rngs
    ) -> None:
        outputs = 4 * width if bottleneck else width
        shapes = [(inputs, width, 3, stride), (width, width, 3, 1)]
        if bottleneck:
            shapes = [
                (inputs, width, 1, 1),
                (width, width, 3, stride),
                (width, outputs, 1, 1),
            ]
        self.units = nnx.List([Unit(*shape, rngs) for shape in shapes])
        is_same = stride == 1 and inputs == outputs
        self.shortcut = None if is_same else Unit(inputs, outputs, 1, stride, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        *first, last = self.units
        for unit in first:
            x = nnx.relu(unit(x))
        return nnx.relu(last(x) + shortcut)


class ResNet(nnx.Module):
    """With the stem of ImageNet, or that of CIFAR: 3x3 without pooling."""

    def __init__(self, depths: list[int], bottleneck: bool, cifar: bool) -> None:
        rngs, before = nnx.Rngs(0), 64
        self.stem = Unit(3, 64, 3, 1, rngs) if cifar else Unit(3, 64, 7, 2, rngs)
        self.pools = not cifar
        blocks: list[nnx.Module] = []
        for stage, depth in enumerate(depths):
            for block in range(depth):
                width, stride = 64 << stage, 2 if stage and not block else 1
                blocks.append(Residual(before, width, stride, bottleneck, rngs))
                before = 4 * width if bottleneck else width
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(before, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.stem(x))
        if self.pools:
            x = nnx.max_pool(x, (3, 3), (2, 2), "SAME")
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


class Block(nnx.Module):
    """Attention and MLP, each with its norm and shortcut."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs) -> None:
        attention: Any = nnx.MultiHeadAttention
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(2)])
        self.mix = attention(heads, width, decode=False, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.mix(self.norms[0](x))
        return x + self.down(nnx.gelu(self.up(self.norms[1](x))))


class ViT(nnx.Module):
    """Patches of 16x16, blocks, the mean of the tokens."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        rngs, patch = nnx.Rngs(0), (16, 16)
        self.patches = nnx.Conv(3, width, patch, patch, padding="VALID", rngs=rngs)
        init, tokens = nnx.initializers.normal(0.02), (196, width)
        self.positions = nnx.Param(init(rngs.params(), tokens))
        self.blocks = nnx.List([Block(width, heads, rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.patches(x)
        x = x.reshape(len(x), -1, x.shape[-1]) + self.positions[...]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))
